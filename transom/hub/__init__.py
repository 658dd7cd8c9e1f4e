"""Room 11, beside the server, which must not know it: models from a hub of files to a directory of this machine.

`repository` is the one that speaks HTTP to a hub, `file_choice` says which files make a model, `download` brings one of
them, `pull` a whole model, `model_store` is where models lie. Knows no engine; what the files mean is not read here.
"""

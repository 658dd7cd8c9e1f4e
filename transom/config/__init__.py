"""Settings as frozen, validated plain data: the architecture of a model, the registry file, the engine's limits.

Import from the modules: the worker process needs `model_config` and `engine_config` only, and `registry_config` alone
brings pydantic with it. Knows no weights, no request, no HTTP.
"""

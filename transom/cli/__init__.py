"""The command line: serve, run, models. The only room that reads the environment."""

"""The commands of the command line, one a module: `add_to` says how each is called."""

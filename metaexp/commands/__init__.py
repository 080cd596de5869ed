"""The console script `metaexp`, which calls the commands by name, and the commands that need no module of their own."""

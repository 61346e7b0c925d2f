"""The settings of a command line: files and names, keys, defaults, help, and what a mistake is told in."""

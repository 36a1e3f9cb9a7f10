"""The command line. main.py holds `main` and the command tree. Each command is a thin client of the library."""

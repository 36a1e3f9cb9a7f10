"""One module per command. Each is imported when its command is used."""

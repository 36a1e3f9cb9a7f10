"""HTTP requests: client.py sends them, deadlines.py limits what a server may take."""

"""Options that several commands share. Options that belong together form a group (option_groups.py)."""

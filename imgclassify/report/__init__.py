"""Pages about results: each one HTML file that opens without a network. Their templates are in templates/."""

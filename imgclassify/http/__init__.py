"""Sends HTTP requests for images and weights, with time limits and rules for retries.

client.py sends requests. deadlines.py limits the time that a server may take. addresses.py shows addresses.
"""

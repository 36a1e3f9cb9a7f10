"""A model reference → a network that can be run, with its preprocessing and its labels.

`reference.py` says which kinds of reference there are, and `loader.load_network` loads any of them. Each kind has a
loader of its own: `catalogued.py`, `timm_registry.py`, `torch_hub.py`, `local_file.py`.
"""

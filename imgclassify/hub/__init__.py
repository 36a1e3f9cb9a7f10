"""Loads the network that a model reference names, with its preprocessing and its labels.

`reference.py` defines the kinds of reference, and `loader.load_network` loads any of them. Each kind has its
own loader: `catalogued.py`, `timm_registry.py`, `hugging_face.py`, `torch_hub.py`, `model_folder.py` and
`local_file.py`.
"""

"""Reads label sets, which name the classes of a network, from labels/*.tsv and from the user's own files.

This module does not know which network a set fits. The caller passes the number of classes that it needs.
"""

from imgclassify.labels.label_set import Label, LabelSet
from imgclassify.labels.lookup import list_label_sets, load_labels
from imgclassify.labels.parsing import parse_labels

__all__ = ["Label", "LabelSet", "list_label_sets", "load_labels", "parse_labels"]

"""Reads a checkpoint file as a state_dict of named arrays, without torch and without running its code.

The formats are .safetensors, and .pth and .pt in both of PyTorch's formats. Arrays are mapped from the file.
"""

from imgclassify.checkpoints.candidates import StateDict as StateDict
from imgclassify.checkpoints.candidates import entries_of as entries_of
from imgclassify.checkpoints.plain_values import to_plain as to_plain
from imgclassify.checkpoints.safetensors import is_safetensors as is_safetensors
from imgclassify.checkpoints.state_dict import BATCH_COUNTER_SUFFIX as BATCH_COUNTER_SUFFIX
from imgclassify.checkpoints.state_dict import Checkpoint as Checkpoint
from imgclassify.checkpoints.state_dict import check_matches as check_matches
from imgclassify.checkpoints.state_dict import check_unchanged as check_unchanged
from imgclassify.checkpoints.state_dict import find_state_dict as find_state_dict
from imgclassify.checkpoints.state_dict import load_arrays as load_arrays
from imgclassify.checkpoints.state_dict import materialize as materialize
from imgclassify.checkpoints.state_dict import open_checkpoint as open_checkpoint
from imgclassify.checkpoints.state_dict import open_lazy as open_lazy
from imgclassify.checkpoints.state_dict import parameter_shapes as parameter_shapes
from imgclassify.checkpoints.state_dict import rename_parameters as rename_parameters
from imgclassify.checkpoints.state_dict import renamer as renamer
from imgclassify.checkpoints.storage import Tensor as Tensor
from imgclassify.checkpoints.torch_files import check_safe as check_safe
from imgclassify.checkpoints.torch_files import list_archive as list_archive
from imgclassify.checkpoints.torch_files import unreadable_checkpoint as unreadable_checkpoint
from imgclassify.checkpoints.torch_files import unsafe_checkpoint as unsafe_checkpoint

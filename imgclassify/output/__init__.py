"""Writes the records of a run to stdout or a file, and lets a stopped run be resumed.

`formats.py` lists the output formats, and each format is implemented in a file of its own. `records.py` defines
what a kind of record is. Nothing here handles tensors or images.
"""

from imgclassify.output.output import Output as Output
from imgclassify.output.output import open_output as open_output
from imgclassify.output.output import require_no_result as require_no_result

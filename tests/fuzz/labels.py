"""Label files of any content: understood or refused in words."""

from __future__ import annotations

import json
import logging
from functools import cache

from fuzz import harness, texts
from fuzz.harness import FindingError, Target

from imgclassify import labels, paths
from imgclassify.errors import LabelsError
from imgclassify.labels import LabelSet, decoding

WORDS = [b"\n", b"\r\n", b",", b"\t", b";", b":", b"label", b"class_index", b"synonyms", b'"', b"'", b"''", b'""']
WORDS += [
    b"[",
    b"]",
    b"{",
    b"}",
    b"(",
    b")",
    b"[[",
    b"0",
    b"-1",
    b"0:",
    b"n01440764 ",
    b"9" * 5000,
    b"1e999",
    b"NaN",
]
WORDS += [b" 0", b" 1", b"- ", b"names:", b"id2label", b"id", b"name", b"\xff\xfe"]
WORDS += [
    b"None",
    b"f'{",
    b"b'x'",
    b"# ",
    b"\\ud800",
    b"\\x00",
    b"\\",
    b"\x00",
    b"\x1b[2J",
    b"\xff",
    b"\xef\xbb\xbf",
]
WORDS += ["\u2028".encode(), "\u202e".encode(), b"**", b"lambda:", b"+1", b".a", b"1 if 1 else ", b"not "]
"""What a mutation may put in: the signs of every form, and what is odd in one."""


@cache
def seeds() -> list[bytes]:
    """One file of each form."""
    shipped = (paths.data_folder("labels") / "imagenet1k.tsv").read_text("utf-8").splitlines(keepends=True)
    texts = [
        "tench, Tinca tinca\ngoldfish, Carassius auratus\n",
        '0, tench\n1: "gold ""fish"""\n2\tcrane\n',
        "n01440764 tench, Tinca tinca\nn01443537 goldfish\n",
        'index,label,synonyms\n1,goldfish,Carassius auratus\n0,"tench, or\ndoctor fish",tench|Tinca tinca\n',
        "label;gloss\ntench;a fish\ngoldfish;another\n",
        "".join(shipped[:20]),
        json.dumps(["tench", "goldfish"]),
        json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}),
        json.dumps(
            [{"label": "tench", "wnid": "n01440764"}, {"label": "goldfish", "synonyms": ["a", "b"]}], indent=1
        ),
        json.dumps({"tench": 0, "goldfish": 1}),
        "tench, Tinca tinca,1\ngoldfish,0\n",
        "1 tench\n0 goldfish\n",
        "Name: Nr\ntench: 1\ngoldfish: 0\n",
        "Nr;Name;Zahl\n1;tench;7\n2;goldfish;8\n",
        "tench\t1\tn01440764\ngoldfish\t0\tn01443537\n",
        "nc: 2\nnames:\n  0: tench # a fish\n  1: 'goldfish'\n",
        '# fish\nnames: [tench, "gold fish"]\n',
        json.dumps({"model_type": "vit", "id2label": {"1": "tench", "0": "goldfish"}}),
        json.dumps(
            {"pretrained_cfg": {"label_names": ["tench", "goldfish"], "label_descriptions": {"tench": "a"}}}
        ),
        json.dumps([["tench", 1], ["goldfish", 0]]),
        "# classes\n{0: 'tench, Tinca tinca',\n 1: \"goldfish\", # one\n 2: ('n01443537', 'it\\'s' 'a fish')}\n",
    ]
    return [*(text.encode() for text in texts), texts[0].encode("utf-16")]


def attempt(content: bytes) -> str:
    """What becomes of a label file: "labels" or "refused". Whatever else is raised is a finding."""
    try:
        label_set = LabelSet("it", labels.parse_labels(decoding.decode_text(content, "it"), "it"))
    except LabelsError as error:
        if not str(error).startswith("it: ") or len(str(error)) > 2000:
            raise FindingError(f"an error of {len(str(error))} characters: {str(error)[:80]}") from error
        return "refused"
    assert [label.class_index for label in label_set.labels] == list(range(len(label_set)))
    for label in label_set.labels:
        assert label.label
        "".join((label.label, label.wnid or "", label.gloss, *label.synonyms)).encode()
    label_set.search("fish")
    return "labels"


def target() -> Target:
    return Target("labels", texts.mutated(seeds(), WORDS), lambda given_input: attempt(given_input.content))


if __name__ == "__main__":
    logging.disable()  # notes about the columns of every second file
    harness.main(target())

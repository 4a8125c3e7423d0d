"""Configurations of strangers: limits, one sentence each, and Detectron2's semantics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fvcore.common.config import CfgNode
from hypothesis import given, settings
from hypothesis import strategies as st

import hipie.config.reading as reading
from hipie.config.reading import ConfigError, read_with_bases, read_with_sources

ROOT = Path(__file__).parents[2]
ALIASES = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 8)
)
MERGES = "m0: &m0 {k: 1}\n" + "".join(
    f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 10)}]}}\n" for i in range(1, 8)
)

# Text of a file -> what the sentence says.
BAD = {
    "aliases of ten million values": (ALIASES, "more than 50,000 values"),
    "merge keys of ten million values": (MERGES, "more than 50,000 values"),
    "an alias in itself": ("a: &a [*a]\n", "line 1 contains itself"),
    "a merge key in itself": ("a: &a {<<: *a}\n", "line 1 contains itself"),
    "deep brackets": ("a: " + "[" * 200_000, "more than 50 levels"),
    "deep braces": ("{a: " * 60_000, "more than 50 levels"),
    "deep blocks": ("".join(" " * i + "a:\n" for i in range(600)), "more than 50 levels"),
    "deep keys": ("? " * 100_000, "more than 50 levels"),
    "deep sequences": ("- " * 100_000, "more than 50 levels"),
    "a base of itself": ("_BASE_: config.yaml\n", "leads back to"),
    "a base of itself by another name": ("_BASE_: ./x/config.yaml\n", "leads back to"),
    "a base of a network": ("_BASE_: https://a.org/b.yaml\n", "not read from a network"),
    "a base of Detectron2's server": ("_BASE_: detectron2://b.yaml\n", "not read from a network"),
    "a base of the hub": ("_BASE_: [hf://a/b.yaml]\n", "not read from a network"),
    "a base of a share": ("_BASE_: //host/share/b.yaml\n", "not read from a network"),
    "a base that is a number": ("_BASE_: 3\n", "has to be a file"),
    "a base that is absent": ("_BASE_: absent.yaml\n", "absent.yaml cannot be read"),
    "a base that is a folder": ("_BASE_: .\n", "a folder"),
    "a base that is a device": ("_BASE_: /dev/zero\n", "not a regular file"),
    "an object": ("a: !!python/object/apply:os.system [ls]\n", "line 1 has the tag"),
    "a name of Python": ("a: !!python/name:os.system\n", "line 1 has the tag"),
    "a tuple of Python": ("a: !!python/tuple [1]\n", "line 1 has the tag"),
    "a tag of the file": ("\n!x a: 1\n", "line 2 has the tag"),
    "a number as key": ("3: 4\n", "the key 3 is of type int"),
    "a truth value as key": ("MODEL: {on: 4}\n", "the key True is of type bool"),
    "a list as key": ("? [1]\n: 4\n", "not YAML"),
    "a long number as key": ("? " + "1" * 3000 + "\n: 4\n", "the key of 9963 bits"),
    "a longer number as key": ("? " + "1" * 5000 + "\n: 4\n", "types do not allow"),
    "a key of 3,000 bytes": ("1" * 3000 + ": 4\n", "not YAML"),
    "a large number": ("a: 0x" + "f" * 4000 + "\n", "more than 64 bits"),
    "a lone surrogate": ('a: "\\ud800"\n', "lone surrogate"),
    "a lone surrogate as key": ('MODEL: {"\\udfff": 1}\n', "lone surrogate"),
    "a date that is none": ("a: 2001-13-40\n", "YAML's types do not allow"),
    "a control character": ("a: \x07\n", "character at position 3"),
    "two documents": ("a: 1\n---\nb: 2\n", "not YAML"),
    "a list": ("- a\n", "not a configuration"),
    "text": ("a", "not a configuration"),
    "a large file": ("# " + "x" * 300_000, "at most 262,144 bytes"),
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs the size of a process")
def test_bad_files_are_one_sentence_within_limits(tmp_path):
    """In one process with limits on memory and time, so that a failure cannot hurt the machine."""
    folder = tmp_path / "x"
    for name, (text, _) in BAD.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "x").symlink_to(".")
        (folder / name / "config.yaml").write_text(text, encoding="utf-8")
    program = (
        "import resource, sys, signal\n"
        "from pathlib import Path\n"
        "from hipie.config.reading import read_with_bases\n"
        "from hipie.errors import InputError\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))\n"
        "for folder in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    signal.alarm(60)\n"
        "    try:\n"
        "        print('read', read_with_bases(str(folder / 'config.yaml')))\n"
        "    except InputError as error:\n"
        "        print(str(error).encode('ascii', 'backslashreplace').decode())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    lines = dict(zip(sorted(BAD), result.stdout.splitlines(), strict=True))
    wrong = {name: lines[name] for name, (_, reason) in BAD.items() if reason not in lines[name]}
    assert not wrong, wrong
    assert all(len(line) < 600 for line in lines.values())


def test_files_that_are_no_regular_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for file in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="not a regular file"):
            read_with_bases(str(file))


def test_bases_are_counted_and_loops_are_found(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.yaml").write_text(f"_BASE_: [{i + 1}.yaml, {i + 1}.yaml]\n")
    (tmp_path / "12.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"0\.yaml: _BASE_ leads to more than 50 files"):
        read_with_bases(str(tmp_path / "0.yaml"))
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml\n")
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\n")
    with pytest.raises(ConfigError, match=r"b\.yaml: _BASE_ leads back to .*a\.yaml"):
        read_with_bases(str(tmp_path / "a.yaml"))


CONFIGS = sorted([*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("projects/*/configs/**/*.yaml")])


def test_configurations_are_read_as_fvcore_reads_them():
    assert len(CONFIGS) > 30
    for file in CONFIGS:
        expected = CfgNode.load_yaml_with_base(str(file))
        assert read_with_bases(str(file)) == expected, file


values = st.recursive(
    st.integers(-(2**40), 2**40) | st.booleans() | st.text("abcé:#'\"- ", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ABCD"), inner, max_size=3)
    ),
    max_leaves=12,
)
contents = st.dictionaries(st.sampled_from("ABCD"), values, max_size=4)


@given(contents, contents, contents)
@settings(max_examples=60, deadline=None)
def test_bases_are_merged_as_fvcore_merges_them(tmp_path_factory, first, second, top):
    folder = tmp_path_factory.mktemp("bases")
    (folder / "first.yaml").write_text(yaml.safe_dump(first, allow_unicode=True))
    (folder / "second.yaml").write_text(yaml.safe_dump({"_BASE_": "first.yaml", **second}))
    bases = ["first.yaml", "second.yaml"]
    (folder / "top.yaml").write_text(yaml.safe_dump({"_BASE_": bases, **top}))
    file = str(folder / "top.yaml")
    try:
        expected = CfgNode.load_yaml_with_base(file)
    except AssertionError:
        with pytest.raises(ConfigError, match="has keys, and is a value"):
            read_with_bases(file)
        return
    assert read_with_bases(file) == expected


@given(st.binary(max_size=300) | st.text("[]{}&*a<>!|:-?,'\"# \n\t%@", max_size=120))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        assert isinstance(read_with_bases(str(file)), dict)
    except ConfigError as error:
        assert "\n" not in str(error)


def test_sources_name_the_file_that_sets_a_key(tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL: {WEIGHTS: a, DEVICE: cpu}\n")
    (tmp_path / "top.yaml").write_text("_BASE_: base.yaml\nMODEL: {WEIGHTS: b}\n")
    content, sources = read_with_sources(str(tmp_path / "top.yaml"))
    assert content == {"MODEL": {"WEIGHTS": "b", "DEVICE": "cpu"}}
    names = {key: Path(file).name for key, file in sources.items()}
    assert names == {"MODEL.WEIGHTS": "top.yaml", "MODEL.DEVICE": "base.yaml"}


def test_aliases_within_the_limits_are_read_and_stay_apart(tmp_path):
    (tmp_path / "base.yaml").write_text("A: &a {x: 1}\nB: *a\n")
    (tmp_path / "top.yaml").write_text("_BASE_: base.yaml\nA: {x: 2}\n")
    assert read_with_bases(str(tmp_path / "top.yaml")) == {"A": {"x": 2}, "B": {"x": 1}}
    assert reading.MAX_VALUES > 10_000

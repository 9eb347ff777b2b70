import gzip
import os
import zipfile

import numpy as np
import pytest

from edge_runtime.reading import (
    open_arrays,
    parse_json,
    read_bytes,
    read_gzip,
    read_json,
    read_text,
    read_toml,
)


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match=r"regular file|directory"):
            read_bytes(path)
    with pytest.raises(OSError, match="regular file"):
        read_json(type(tmp_path)("/dev/zero"))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "names").write_bytes(b"\xef\xbb\xbfcat\ndog\n")
    assert read_text(tmp_path / "names") == "cat\ndog\n"


def test_a_file_over_the_limit_is_refused(tmp_path):
    (tmp_path / "big").write_bytes(b"1" * 11)
    assert read_bytes(tmp_path / "big", limit=11) == b"1" * 11
    with pytest.raises(OSError, match="at most 10 bytes"):
        read_bytes(tmp_path / "big", limit=10)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":['])
def test_deep_nesting_is_refused_before_it_is_parsed(opening):
    with pytest.raises(ValueError, match="deeper than 64"):
        parse_json(opening * 100_000)
    assert parse_json("[" * 64 + "]" * 64)
    assert parse_json('["[[[[\\"[[[["]' * 1, depth=1) == ['[[[["[[[[']


@pytest.mark.parametrize("ending", ["", "\\"])
def test_a_text_without_an_end_takes_no_longer_than_its_length(ending):
    # Of a text of 2 MB: a reader that begins again at each quote takes hours.
    with pytest.raises(ValueError, match="Unterminated string"):
        parse_json('"' + '\\"' * 1_000_000 + ending)


@pytest.mark.parametrize(
    "text", ["a=" + "[" * 100_000, ".".join("a" * 16_000) + "=1", "[" + "a." * 16_000 + "a]"]
)
def test_deep_toml_is_refused_before_it_is_parsed(text, tmp_path):
    (tmp_path / "t").write_text(text)
    with pytest.raises(ValueError, match="deeper than 64"):
        read_toml(tmp_path / "t")


@pytest.mark.parametrize("text", ['a="' + '\\"' * 300_000, "a" * 500_000, "a='" + "'''x" * 200_000])
def test_toml_without_an_end_takes_no_longer_than_its_length(text, tmp_path):
    (tmp_path / "t").write_text(text)
    with pytest.raises(ValueError, match=r"line 1|end of document|Unterminated"):
        read_toml(tmp_path / "t")


def test_toml_with_brackets_and_dots_in_texts_is_read(tmp_path):
    text = f"""# don't {"[" * 99}
a.b = "{"." * 99}{"[" * 99}" # it's
c = '{"[" * 99}'
d = '''{"[" * 99}'''
e = {[1.5] * 99}
"""
    (tmp_path / "t").write_text(text)
    assert read_toml(tmp_path / "t")["a"] == {"b": "." * 99 + "[" * 99}


def test_arrays_that_unpack_to_more_than_the_limit_are_refused(tmp_path):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, a=np.zeros(1 << 20), b=np.arange(3))
    assert file.stat().st_size < 1 << 14
    with open_arrays(file, limit=9 << 20) as arrays:
        assert arrays["b"].tolist() == [0, 1, 2]
    with (
        pytest.raises(ValueError, match=r"it unpacks to 838.* bytes, more than 8388608"),
        open_arrays(file, limit=8 << 20),
    ):
        pass
    file.write_bytes(b"no archive")
    with pytest.raises(zipfile.BadZipFile), open_arrays(file):
        pass


def test_a_gzip_file_that_unpacks_to_more_than_the_limit_is_refused(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    assert len(read_gzip(tmp_path / "a.gz", limit=1 << 20)) == 1 << 20
    with pytest.raises(ValueError, match="unpacks to more than 1048575 bytes"):
        read_gzip(tmp_path / "a.gz", limit=(1 << 20) - 1)


def test_a_damaged_gzip_file_is_refused_as_unreadable(tmp_path):
    content = bytearray(gzip.compress(b"a" * 100))
    content[10:14] = b"\xff" * 4  # where the packed bytes begin
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(OSError, match="while decompressing"):
        read_gzip(tmp_path / "a.gz")

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema.errors import SettingError, UserError
from data.records import Unreadable, existing_file, read_csv, read_jsonl


def _csv(tmp_path, content):
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_csv(path)


def _jsonl(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_jsonl(path)


def test_csv_lines_are_counted_as_an_editor_counts_them(tmp_path):
    file = _csv(tmp_path, 'a,b\r\n1,"two\r\nlines"\r\n\r\n3,4\r\n')
    assert file.rows == ((2, {"a": "1", "b": "two\r\nlines"}), (5, {"a": "3", "b": "4"}))


def test_an_empty_csv_field_is_missing(tmp_path):
    assert _csv(tmp_path, "a,b\n,x\n").rows == ((2, {"a": None, "b": "x"}),)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    assert _csv(tmp_path, b"\xef\xbb\xbfa,b\n1,2\n").columns == ("a", "b")
    assert _jsonl(tmp_path, b'\xef\xbb\xbf{"a": 1}\n').columns == ("a",)


def test_rows_after_an_unreadable_csv_row_are_still_read(tmp_path):
    content = b'a,b\n1,2\n3\n"x"y,4\n\xff\xfe,5\n6,7\n'
    (two, good), (three, short), (four, quoted), (five, bytes_), (six, last) = _csv(
        tmp_path, content
    ).rows
    assert (two, three, four, five, six) == (2, 3, 4, 5, 6)
    assert good == {"a": "1", "b": "2"}
    assert short == Unreadable("1 fields where the header has 2")
    assert isinstance(quoted, Unreadable)
    assert bytes_ == Unreadable("not UTF-8")
    assert last == {"a": "6", "b": "7"}


def test_a_quote_that_never_ends_is_found_where_it_starts(tmp_path):
    rows = _csv(tmp_path, 'a,b\n1,2\n"3,4\n5,6\n').rows
    assert rows[1][0] == 3
    assert isinstance(rows[1][1], Unreadable)


def test_a_field_may_be_long(tmp_path):
    long = "x" * 500_000
    assert _csv(tmp_path, f"a,b\n{long},1\n").rows[0][1]["a"] == long


@pytest.mark.parametrize("content", ["", "a,b,a\n1,2,3\n"])
def test_a_csv_without_a_usable_header_is_refused(tmp_path, content):
    with pytest.raises(UserError, match=r"rows\.csv"):
        _csv(tmp_path, content)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_header_that_is_no_utf_8_is_refused_as_such(tmp_path, encoding):
    path = tmp_path / "rows.csv"
    path.write_text("größe,b\n1,2\n", encoding=encoding)
    with pytest.raises(UserError, match=r"rows\.csv: expected UTF-8 text"):
        read_csv(path)


@pytest.mark.parametrize(
    ("content", "line"),
    [("a,b\n1,2\n", r"rows\.jsonl, row 1: not JSON"), ("\n", r"rows\.jsonl: expected rows")],
)
def test_a_file_of_another_form_is_named_as_such_and_not_for_its_columns(tmp_path, content, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=line):
        read_jsonl(path).require_columns([("data.table.text", "text")])


def test_rows_after_an_unreadable_json_line_are_still_read(tmp_path):
    content = b'{"a": 1}\n\n{"a": \n[1]\n{"a": "\xff"}\n' + b"[" * 100_000 + b'\n{"b": null}\n'
    lines = _jsonl(tmp_path, content)
    assert lines.columns == ("a", "b")
    assert [line for line, _ in lines.rows] == [1, 3, 4, 5, 6, 7]
    assert lines.rows[0][1] == {"a": 1}
    assert all(isinstance(record, Unreadable) for _, record in lines.rows[1:5])
    assert "a JSON list" in lines.rows[2][1].problem
    assert lines.rows[5][1] == {"b": None}


_VALUES = st.none() | st.booleans() | st.integers() | st.text()


@given(st.lists(st.dictionaries(st.text(), _VALUES)))
def test_json_objects_come_back_as_they_were(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("json") / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [record for _, record in read_jsonl(path).rows] == records


def test_a_missing_column_names_key_value_and_the_columns_there_are(tmp_path):
    file = _csv(tmp_path, "a,b\n1,2\n")
    with pytest.raises(SettingError) as error:
        file.require_columns([("data.table.label", "c")])
    assert str(error.value).startswith("data.table.label: expected a column of ")
    assert "['a', 'b']" in str(error.value)
    assert str(error.value).endswith("Received: 'c'")


def test_a_table_with_other_separators_is_told_of_commas(tmp_path):
    with pytest.raises(SettingError, match="separated by commas"):
        _csv(tmp_path, "a;b\n1;2\n").require_columns([("data.table.label", "a")])


@pytest.mark.parametrize("value", [None, "", "gone.csv", "."])
def test_a_file_that_is_not_there_is_refused(value):
    with pytest.raises(SettingError, match=r"data\.table\.train: expected an existing"):
        existing_file("data.table.train", value)

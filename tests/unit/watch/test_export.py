"""What is seen, as a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.failing_calls import full_disk
from tests.support.looks import COUNTS, full_look

from inbound_audit.watch import export
from inbound_audit.watch.tree import Row


@pytest.mark.parametrize("name", ["look.json", "rows.csv"])
def test_a_file_that_is_to_be_replaced_stays_whole_if_the_disk_is_full(tmp_path: Path, name: str) -> None:
    look = full_look()
    rows = [Row(prefix, count, 0.5, change, refused) for prefix, (count, change, refused) in COUNTS.items()]
    file = tmp_path / name
    export.write(str(file), look, rows)
    whole = file.read_bytes()
    with pytest.raises(OSError, match="too large"), full_disk():
        export.write(str(file), look, rows[:-1], replace=True)
    assert file.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [file]

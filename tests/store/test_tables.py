"""Parquet files appear whole or not at all."""

import subprocess
import sys
import textwrap

import pytest


@pytest.mark.parametrize("rows", [50_000, 900])
def test_a_full_disk_leaves_no_shorter_file(tmp_path, rows):
    script = """
        import resource, signal, sys
        from pathlib import Path
        import pyarrow as pa
        from dpo_pipeline.errors import StoreError
        from dpo_pipeline.store.tables import new_table
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
        path = Path(sys.argv[1]) / "rows.parquet"
        schema = pa.schema([("text", pa.string())])
        try:
            with new_table(path, schema) as add:
                for number in range(int(sys.argv[2])):
                    add({"text": str(hash(number) * 7919 % 104729)})
        except StoreError as error:
            print(error)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path, str(rows)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "rows.parquet" in ran.stdout
    assert "free some space" in ran.stdout
    assert list(tmp_path.iterdir()) == []

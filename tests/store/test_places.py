"""The environment says where a store lies."""

from pathlib import Path

import pytest

from dpo_pipeline.errors import SettingsError
from dpo_pipeline.store.objects import open_store
from dpo_pipeline.store.places import address, cache_bound, home


def test_a_folder_is_meant_from_here_and_without_one_it_lies_in_the_checkout(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPO_PIPELINE_HOME", "here")
    assert (home(), address()) == (tmp_path / "here", None)
    monkeypatch.setenv("DPO_PIPELINE_HOME", "~/there")
    assert home() == Path.home() / "there"
    monkeypatch.delenv("DPO_PIPELINE_HOME")
    assert home() == Path(__file__).parents[2] / ".dpo-pipeline"


def test_an_address_has_a_cache_of_its_own_however_it_is_written(monkeypatch, tmp_path):
    monkeypatch.setenv("DPO_PIPELINE_CACHE", str(tmp_path))
    folders = []
    for place in ("one", "one/", "two"):
        monkeypatch.setenv("DPO_PIPELINE_HOME", f"file://{tmp_path}/{place}")
        folders.append(home())
    assert folders[0] == folders[1] != folders[2]
    assert {folder.parent for folder in folders} == {tmp_path}


@pytest.mark.parametrize("value", ["much", "0", "-1", "nan"])
def test_a_bound_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("DPO_PIPELINE_CACHE_GB", value)
    with pytest.raises(SettingsError, match="give a number of gigabytes"):
        cache_bound()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("ftp://host/x", "schemes are s3, gs, az, file"),
        ("s3://", "give a folder, or an address"),
        ("gs://bucket/x", "pip install gcsfs"),
    ],
)
def test_what_cannot_be_reached_is_refused_and_no_folder_of_that_name_made(
    monkeypatch, tmp_path, value, told
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPO_PIPELINE_HOME", value)
    for asked in (open_store, home):
        with pytest.raises(SettingsError, match=told):
            asked()
    assert list(tmp_path.iterdir()) == []

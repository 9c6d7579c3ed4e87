"""Where a store lies: a folder, or an address on object storage and its cache on this machine."""

import os
from importlib.util import find_spec
from pathlib import Path

from dpo_pipeline.errors import SettingsError
from dpo_pipeline.store.digests import digest_of

# Scheme of an address -> the package that reaches it, and how that is installed.
SCHEMES = {
    "s3": ("s3fs", 'pip install "dpo-pipeline[object-storage]"'),
    "gs": ("gcsfs", "pip install gcsfs"),
    "az": ("adlfs", "pip install adlfs"),
    "file": ("fsspec", "pip install fsspec"),
}


def address() -> str | None:
    """Return `DPO_PIPELINE_HOME` where it is an address such as s3://bucket/prefix, else None.

    Raises:
        SettingsError: Nothing here reaches such an address.
    """
    configured = os.environ.get("DPO_PIPELINE_HOME", "")
    if "://" not in configured:
        return None
    scheme, _, place = configured.partition("://")
    if scheme not in SCHEMES or not place.strip("/"):
        raise SettingsError(
            f"DPO_PIPELINE_HOME is {configured!r}: give a folder, or an address such as "
            f"s3://bucket/prefix; schemes are {', '.join(SCHEMES)}"
        )
    package, install = SCHEMES[scheme]
    if not find_spec(package):
        raise SettingsError(f"DPO_PIPELINE_HOME is {configured!r} and needs {package}: {install}")
    return configured.rstrip("/")


def home() -> Path:
    """Return the folder of artifacts and runs; of an address, that of its cache.

    `DPO_PIPELINE_HOME`, or `.dpo-pipeline` of the checkout, or, where the project is
    installed without one, the user's cache folder.
    """
    user, checkout = Path.home() / ".cache" / "dpo-pipeline", Path(__file__).parents[2]
    if remote := address():
        caches = os.environ.get("DPO_PIPELINE_CACHE") or user / "remote"
        return Path(caches).expanduser().absolute() / digest_of(remote)[:16]
    if configured := os.environ.get("DPO_PIPELINE_HOME"):
        return Path(configured).expanduser().absolute()
    return checkout / ".dpo-pipeline" if (checkout / "pyproject.toml").is_file() else user


def cache_bound() -> float:
    """Return the bytes that the cache of an address may hold.

    Raises:
        SettingsError: `DPO_PIPELINE_CACHE_GB` is no number.
    """
    value = os.environ.get("DPO_PIPELINE_CACHE_GB", "100")
    try:
        gigabytes = float(value)
    except ValueError:
        gigabytes = 0
    if not gigabytes > 0:
        raise SettingsError(
            f"DPO_PIPELINE_CACHE_GB is {value!r}: give a number of gigabytes, or leave it out"
        )
    return gigabytes * 1e9

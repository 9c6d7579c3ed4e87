"""Who may read and write a store: one user, or the members of a group.

A store is its user's alone; where DPO_PIPELINE_GROUP names a group, also its members'. The rest of
the machine sees nothing of it, and what somebody else put there is not trusted.
"""

import grp
import os
import pwd
from functools import cache
from pathlib import Path

from dpo_pipeline.errors import StoreError

GROUP = "DPO_PIPELINE_GROUP"


def claim(root: Path) -> None:
    """Make the root of a store, and close to others what this process writes from now on.

    Folders are 0700 and files 0600; of a group 2770 and 0660. A root that is there keeps its mode.

    Raises:
        StoreError: There is no such group, or the folder cannot be made.
    """
    name = os.environ.get(GROUP, "")
    os.umask(0o007 if name else 0o077)
    if root.is_dir():
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        if name:
            os.chown(root, -1, grp.getgrnam(name).gr_gid)
            root.chmod(0o2770)
    except KeyError:
        raise StoreError(f"{GROUP} is {name!r}, and there is no such group: create it, or leave "
                         "the variable out") from None  # fmt: skip
    except OSError as error:
        member = f", and be a member of the group {name}" if name else ""
        raise StoreError(
            f"cannot make {root}: {error.strerror}; set DPO_PIPELINE_HOME to a folder that you "
            f"may write{member}"
        ) from error


def strange(path: Path, root: Path) -> bool:
    """Tell whether a file in a store is neither one's own, nor root's, nor of whose store it is.

    A group's members believe each other.
    """
    owner = path.lstat().st_uid
    return owner not in (0, os.geteuid(), root.stat().st_uid) and not _is_member(owner)


@cache
def _is_member(user: int) -> bool:
    name = os.environ.get(GROUP, "")
    try:
        of = pwd.getpwuid(user)
        return bool(name) and grp.getgrnam(name).gr_gid in os.getgrouplist(of.pw_name, of.pw_gid)
    except KeyError:  # a user or group that is gone
        return False

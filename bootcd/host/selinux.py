"""SELinux of the running host: whether it is on, and whether this process may write labels it does not know.

An image may come with a newer policy, whose labels the running kernel has never heard of. It lets a process
write them that has the capability CAP_MAC_ADMIN and a domain to which the policy grants `mac_admin`; on
distributions with SELinux that is `install_t`, entered through files labelled `install_exec_t`.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

ENFORCE = "sys/fs/selinux/enforce"
"Below the root directory; there if SELinux is on, be it enforcing or permissive."

_UNKNOWN_LABEL = b"system_u:object_r:bootcd_no_such_label_t:s0\0"


def is_on(root: Path) -> bool:
    return (root / ENFORCE).exists()


def may_write_unknown_labels() -> bool:
    """Try it on a file that goes away at once; False only if it was refused."""
    with tempfile.TemporaryFile() as probe:
        try:
            os.setxattr(probe.fileno(), "security.selinux", _UNKNOWN_LABEL)
        except OSError as error:
            return error.errno not in (errno.EINVAL, errno.EACCES, errno.EPERM)
    return True

"""Certificates with every kind of mistake, and servers that present them."""

import contextlib
import datetime as dt
import subprocess
import sys
from pathlib import Path

ENGINE = Path(__file__).parent / "foreign_engine.py"
DAY = dt.timedelta(days=1)


class Authority:
    """A certificate authority with a folder of its own, made by `trustme`."""

    def __init__(self, folder):
        import trustme

        self.folder = folder
        folder.mkdir(parents=True)
        self.ca = folder / "ca.pem"
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, name, *hosts, begin=-30, end=300):
        """Return {"certificate": file, "key": file}; begin and end are in days from now."""
        now = dt.datetime.now(dt.timezone.utc)
        issued = self._authority.issue_cert(
            *hosts, not_before=now + begin * DAY, not_after=now + end * DAY
        )
        files = {"certificate": self.folder / f"{name}.pem", "key": self.folder / f"{name}-key.pem"}
        blocks = [block.bytes() for block in issued.cert_chain_pems]
        files["certificate"].write_bytes(b"".join(blocks))
        issued.private_key_pem.write_to_path(str(files["key"]))
        files["key"].chmod(0o600)
        return files


@contextlib.contextmanager
def engine(mode="contract", **files):
    """Run a server and yield its port; keyword arguments are its flags."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in files.items()]
    process = subprocess.Popen(
        [sys.executable, ENGINE, mode, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()

"""Fetches the scripts of the pages through npm into book/_static/vendor, so that the book asks no other host.

vendor.json names the packages, their versions, npm's own checksums (SHA-512) and the files that are kept. Without npm
the pages take the same scripts from a public network, and this command says so.
"""

import base64
import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
VENDOR = TOOLS.parent / "_static" / "vendor"
PACKAGES = json.loads((TOOLS / "vendor.json").read_text(encoding="utf-8"))


class VendorError(Exception):
    """Scripts that can't be fetched, with the reason in one sentence."""


def stamp() -> str:
    """What a complete folder says of itself: a digest of vendor.json and of this file."""
    return hashlib.sha256(b"".join((TOOLS / name).read_bytes() for name in ("vendor.json", "vendor.py"))).hexdigest()


def is_vendored() -> bool:
    """Whether book/_static/vendor holds what vendor.json asks for."""
    return (VENDOR / "stamp").exists() and (VENDOR / "stamp").read_text() == stamp()


def fetch(package: str, folder: Path) -> None:
    """Packs one package with the user's own npm, verifies it, and unpacks the wanted files into the folder."""
    entry = PACKAGES[package]
    command = ["npm", "pack", f"{package}@{entry['version']}", "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, cwd=folder)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise VendorError(f"npm can't fetch {package} {entry['version']} ({reason})")
    (archive,) = folder.glob("*.tgz")
    verify(archive, package, entry["integrity"])
    with tarfile.open(archive) as members:
        for member in members:
            name = member.name.removeprefix("package/")
            if member.isfile() and any(fnmatch.fnmatchcase(name, pattern) for pattern in entry["files"]):
                target = folder / package / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(members.extractfile(member).read())
    archive.unlink()


def verify(archive: Path, package: str, integrity: str) -> None:
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != integrity:
        raise VendorError(f"{package} is not the file that vendor.json names: its checksum is sha512-{digest}")


def main() -> int:
    if is_vendored():
        return 0
    wanted = [package for package, entry in PACKAGES.items() if "only" not in entry]  # the rest is for tests alone
    if shutil.which("npm") is None:
        print("npm is missing: the pages will take their scripts from public networks (CDN)", file=sys.stderr)
        return 1 if os.environ.get("E2VIT_REQUIRE_ALL") else 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            for package in wanted:
                fetch(package, Path(folder))
            shutil.rmtree(VENDOR, ignore_errors=True)
            shutil.copytree(folder, VENDOR)
        VENDOR.chmod(0o755)
        (VENDOR / "stamp").write_text(stamp())  # last: without it the folder counts as incomplete
    except (VendorError, subprocess.TimeoutExpired, OSError) as reason:
        print(f"{reason}: the pages will take their scripts from public networks (CDN)", file=sys.stderr)
        return 1 if os.environ.get("E2VIT_REQUIRE_ALL") else 0
    print(f"vendored {', '.join(wanted)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Packs one target's programs into dist/, the same bytes for the same input.

usage: package.py TARGET FOLDER DIST
Writes hive-VERSION-TARGET.tar.gz (programs, service files, licences, the README's first chapters) and
hive-VERSION-TARGET.cdx.json, the bill of materials in CycloneDX 1.5: what of Cargo.lock is linked for this target.
"""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import uuid
from datetime import datetime, timezone

PROGRAMS = ("hive-agent", "hivectl")
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))


def main(target, folder, dist):
    os.makedirs(dist, exist_ok=True)
    version = re.search(r'^version = "(.+)"', read("Cargo.toml"), re.M)[1]
    name = f"hive-{version}-{target}"
    archive, bill = f"{dist}/{name}.tar.gz", f"{dist}/{name}.cdx.json"
    pack(archive, name, contents(folder))
    with open(bill, "w") as file:
        json.dump(bill_of_materials(target, version), file, indent=1, sort_keys=True)
        file.write("\n")
    for program in PROGRAMS:
        print(f"{program}: {os.path.getsize(f'{folder}/{program}'):,} bytes")
    print(archive)


def contents(folder):
    """(name, mode, bytes) of everything in the archive."""
    files = [(program, 0o755, f"{folder}/{program}") for program in PROGRAMS]
    for service in sorted(os.listdir("cross/service")):
        mode = os.stat(f"cross/service/{service}").st_mode & 0o100 and 0o755 or 0o644
        files.append((f"service/{service}", mode, f"cross/service/{service}"))
    files += [(licence, 0o644, licence) for licence in ("LICENSE-APACHE", "LICENSE-MIT")]
    for name, mode, path in files:
        with open(path, "rb") as file:
            yield name, mode, file.read()
    yield "README.md", 0o644, excerpt(read("README.md")).encode()


INSTALL = """## Install

Both programs are static, so copying them is all. The second command makes a service of the agent where systemd, OpenRC
or procd runs; a file for BusyBox init is in `service/`:

```console
$ sudo install -m 755 hive-agent hivectl /usr/local/bin/
$ sudo hive-agent --network home:PASSWORD --name gpu install
```

The examples below start agents by hand, as an ordinary user, on two machines: `gpu`, which runs a model and databases,
and `laptop`, where you sit.

"""


def excerpt(readme):
    """The chapters for somebody who has the programs: up to how it works, without building them."""
    chapters = re.split(r"^(?=## )", readme.split("\n## How it works")[0], flags=re.M)
    # The line of links at the top leads to chapters that are not here, and so do some links in the text.
    first = re.sub(r"^\[Try it\].*?\n\n", "", chapters[0], flags=re.M | re.S)
    rest = "".join(c for c in chapters[1:] if not c.startswith(("## Try it", "## Install")))
    return re.sub(r"\[([^]]*)\]\(#[^)]*\)", r"“\1” in the whole README", first + INSTALL + rest)


def pack(path, top, files):
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, mode, content in files:
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.mode, entry.mtime, entry.size = mode, EPOCH, len(content)
            archive.addfile(entry, io.BytesIO(content))
    with open(path, "wb") as file:
        with gzip.GzipFile("", "wb", 9, file, mtime=EPOCH) as packed:
            packed.write(tar.getvalue())


def bill_of_materials(target, version):
    metadata = cargo_metadata(target)
    packages = {package["id"]: package for package in metadata["packages"]}
    links = linked(metadata)
    checksums = lock_checksums()
    lock = read("Cargo.lock").encode()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, target + hashlib.sha256(lock).hexdigest())}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(EPOCH, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "application", "name": "hive", "version": version, "bom-ref": "hive"},
            "properties": [{"name": "target", "value": target}],
        },
        "components": [component(packages[each], checksums) for each in sorted(links, key=lambda id: reference(packages[id]))],
        "dependencies": [
            {"ref": reference(packages[each]), "dependsOn": sorted(reference(packages[other]) for other in others)}
            for each, others in sorted(links.items(), key=lambda link: reference(packages[link[0]]))
        ],
    }


def cargo_metadata(target):
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={target}"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def linked(metadata):
    """Package id -> ids of what it needs to run, from both programs down; neither build nor test dependencies."""
    nodes = {node["id"]: node["deps"] for node in metadata["resolve"]["nodes"]}
    waiting = [package["id"] for package in metadata["packages"] if package["name"] in PROGRAMS and not package["source"]]
    links = {}
    while waiting:
        each = waiting.pop()
        if each not in links:
            links[each] = [d["pkg"] for d in nodes[each] if any(kind["kind"] is None for kind in d["dep_kinds"])]
            waiting += links[each]
    return links


def lock_checksums():
    """(name, version) -> SHA-256 of the crate, from Cargo.lock."""
    found = re.findall(r'name = "(.+)"\nversion = "(.+)"\n(?:source = .+\n)?(?:checksum = "(.+)"\n)?', read("Cargo.lock"))
    return {(name, version): checksum for name, version, checksum in found}


def component(package, checksums):
    entry = {"type": "library", "name": package["name"], "version": package["version"], "bom-ref": reference(package)}
    if package["license"]:
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if package["source"]:
        entry["purl"] = reference(package)
        entry["hashes"] = [{"alg": "SHA-256", "content": checksums[package["name"], package["version"]]}]
    return entry


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    main(*sys.argv[1:])

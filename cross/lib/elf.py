"""Refuses programs that are not one static file for the processor of their target.

usage: elf.py TARGET FILE...
Reads the ELF header and the program headers, as `readelf -hl` shows them: no interpreter, no library needed, no stack
that may be executed.
"""

import struct
import sys

# e_machine and EI_CLASS by the first part of the target.
MACHINES = {"x86_64": (62, 2), "aarch64": (183, 2), "armv7": (40, 1), "arm": (40, 1), "riscv64gc": (243, 2)}
PT_DYNAMIC, PT_INTERP, PT_GNU_STACK, DT_NEEDED, PF_X = 2, 3, 0x6474E551, 1, 1


def main(target, files):
    for name in files:
        with open(name, "rb") as file:
            problem = check(file.read(), MACHINES[target.split("-")[0]])
        if problem:
            sys.exit(f"error: {name}: {problem}")
        print(f"{name}: static")


def check(image, machine):
    """What is wrong with an ELF image, or None."""
    if image[:4] != b"\x7fELF":
        return "not an ELF file"
    bits = image[4]
    if (struct.unpack_from("<H", image, 18)[0], bits) != machine:
        return "for another processor"
    for kind, flags, offset, size in program_headers(image, bits):
        if kind == PT_INTERP:
            return "needs a dynamic loader"
        if kind == PT_GNU_STACK and flags & PF_X:
            return "has an executable stack"
        if kind == PT_DYNAMIC and DT_NEEDED in dynamic_tags(image[offset : offset + size], bits):
            return "needs shared libraries"
    return None


def program_headers(image, bits):
    """(type, flags, offset, file size) of each."""
    (start,) = struct.unpack_from("<Q", image, 32) if bits == 2 else struct.unpack_from("<I", image, 28)
    entry, count = struct.unpack_from("<HH", image, 54 if bits == 2 else 42)
    for at in range(start, start + entry * count, entry):
        if bits == 2:
            kind, flags, offset, _, _, size = struct.unpack_from("<IIQQQQ", image, at)
        else:
            kind, offset, _, _, size, _, flags = struct.unpack_from("<7I", image, at)
        yield kind, flags, offset, size


def dynamic_tags(table, bits):
    shape = "<qQ" if bits == 2 else "<iI"
    whole = len(table) - len(table) % struct.calcsize(shape)
    return {tag for tag, _ in struct.iter_unpack(shape, table[:whole])}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

"""The `tessera` command: runs manifests on this machine and shows what runs did. It starts programs, it imports
none.
"""

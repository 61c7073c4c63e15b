"""The data room: builds token shards from documents, and reads them in an order that is a pure function.

Reading needs numpy and `tessera_store` only; whatever a build needs beside them is imported by the modules of the
build.
"""

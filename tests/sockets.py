"""Which sockets a process opens, and its children."""

import time

import psutil


def watch(process):
    """Status, own address, other address and their ports of every internet socket, until the process has ended."""
    seen = set()
    while process.poll() is None:
        try:
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for each in tree:
            try:
                connections = each.net_connections(kind="inet")
            except psutil.NoSuchProcess:
                continue
            seen |= {
                (
                    *(c.status, c.laddr and c.laddr.ip, c.raddr and c.raddr.ip),
                    *(c.laddr and c.laddr.port, c.raddr and c.raddr.port),
                )
                for c in connections
            }
        time.sleep(0.1)
    process.wait()
    return seen

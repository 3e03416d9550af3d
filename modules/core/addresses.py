"""What an IP address stands for, whatever form it is hidden in. Knows no name and no connection."""

from __future__ import annotations

import ipaddress

NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def meant(address: str) -> Address:
    """The address that is reached: of forms that hold an IPv4 address (mapped, 6to4, NAT64, Teredo) that one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv4Address):
        return found
    teredo = found.teredo
    inner = found.ipv4_mapped or found.sixtofour or (teredo[1] if teredo else None)
    return inner or (ipaddress.IPv4Address(found.packed[-4:]) if found in NAT64 else found)


def is_public(address: str) -> bool:
    """Whether it is of the public internet: no private network, not this machine, nobody in particular."""
    found = meant(address)
    return found.is_global and not found.is_multicast

"""What an ssh_config file may say: the options there are, and the values of those that opsbook goes by.

ssh refuses a file with a word it does not know, wherever in the file it stands, and so does opsbook: a setting that is
misspelt is one somebody relies on. Knows neither files nor hosts.
"""

from __future__ import annotations

import difflib
import re
import socket
import sys
from collections.abc import Sequence

KNOWN = frozenset(
    """
    addkeystoagent addressfamily afstokenpassing batchmode bindaddress bindinterface canonicaldomains
    canonicalizefallbacklocal canonicalizehostname canonicalizemaxdots canonicalizepermittedcnames
    casignaturealgorithms certificatefile challengeresponseauthentication channeltimeout checkhostip cipher ciphers
    clearallforwardings compression compressionlevel connectionattempts connecttimeout controlmaster controlpath
    controlpersist dsaauthentication dynamicforward enableescapecommandline enablesshkeysign escapechar
    exitonforwardfailure fallbacktorsh fingerprinthash forkafterauthentication forwardagent forwardx11
    forwardx11timeout forwardx11trusted gatewayports globalknownhostsfile globalknownhostsfile2 gssapiauthentication
    gssapiclientidentity gssapidelegatecredentials gssapikexalgorithms gssapikeyexchange gssapirenewalforcesrekey
    gssapiserveridentity gssapitrustdns hashknownhosts host hostbasedacceptedalgorithms
    hostbasedauthentication hostbasedkeytypes hostkeyalgorithms hostkeyalias hostname identitiesonly identityagent
    identityfile identityfile2 ignoreunknown include ipqos kbdinteractiveauthentication kbdinteractivedevices
    keepalive kerberosauthentication kerberostgtpassing kexalgorithms knownhostscommand localcommand localforward
    loglevel logverbose macs match nohostauthenticationforlocalhost numberofpasswordprompts obscurekeystroketiming
    passwordauthentication permitlocalcommand permitremoteopen pkcs11provider port preferredauthentications protocol
    protocolkeepalives proxycommand proxyjump proxyusefdpass pubkeyacceptedalgorithms pubkeyacceptedkeytypes
    pubkeyauthentication refuseconnection rekeylimit remotecommand remoteforward requesttty requiredrsasize
    revokedhostkeys rhostsauthentication rhostsrsaauthentication rsaauthentication securitykeyprovider sendenv
    serveralivecountmax serveraliveinterval sessiontype setenv setuptimeout skeyauthentication smartcarddevice
    stdinnull streamlocalbindmask streamlocalbindunlink stricthostkeychecking syslogfacility tag tcpkeepalive
    tisauthentication tunnel tunneldevice updatehostkeys useblacklistedkeys useprivilegedport user
    userknownhostsfile userknownhostsfile2 useroaming usersh verifyhostkeydns versionaddendum visualhostkey
    warnweakcrypto xauthlocation
    """.split()  # noqa: SIM905  as one text it can be read
) | ({"usekeychain"} if sys.platform == "darwin" else set())
"""All that OpenSSH 10 knows, those that no longer mean anything among them."""
SWITCH = {"yes", "no", "true", "false"}
WORDS = {
    "addressfamily": {"any", "inet", "inet6"},
    "challengeresponseauthentication": SWITCH,
    "identitiesonly": SWITCH,
    "kbdinteractiveauthentication": SWITCH,
    "passwordauthentication": SWITCH,
    "pubkeyauthentication": SWITCH | {"unbound", "host-bound"},
    "stricthostkeychecking": SWITCH | {"off", "ask", "accept-new"},
}
"""Options that take one of some words, whatever the case."""
ALONE = {
    "bindaddress",
    "certificatefile",
    "connecttimeout",
    "hostkeyalias",
    "hostname",
    "identityagent",
    "identityfile",
    "port",
    "user",
    *WORDS,
}
"""Options that opsbook goes by and that have one argument."""
MOST_PORT = (1 << 16) - 1
_TIME = re.compile(r"(?:(\d+)([smhdw]?))", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def unknown(name: str) -> str:
    """Say what is wrong with an option that is not known; empty when it is."""
    if name in KNOWN:
        return ""
    near = difflib.get_close_matches(name, KNOWN, n=1)
    return f"bad configuration option: {name}{f' (did you mean {near[0]}?)' if near else ''}"


def mistake(name: str, values: Sequence[str]) -> str:
    """Say what is wrong with what an option is given; empty when nothing is, or when opsbook does not go by it."""
    if name in ALONE and len(values) > 1:
        return f"{name} has more than one argument: {' '.join(values)}"
    if name in WORDS and values[0].lower() not in WORDS[name]:
        return f"{name} is {values[0]!r}, not one of {', '.join(sorted(WORDS[name]))}"
    if name == "port" and port_number(values[0]) is None:
        return f"bad number: port {values[0]!r}"
    if name == "connecttimeout" and values[0] != "none" and seconds(values[0]) is None:
        return f"bad number: connecttimeout {values[0]!r}"
    return ""


def port_number(text: str) -> int | None:
    """Return a port, by its number or as a service is called; None when it is none."""
    try:
        number = int(text) if text.isascii() and text.isdigit() else socket.getservbyname(text, "tcp")
    except OSError:
        return None
    return number if 0 < number <= MOST_PORT else None


def seconds(text: str) -> int | None:
    """Return seconds of a time as OpenSSH writes it: `90`, `1h30m`; None when it is none."""
    parts = _TIME.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(int(number) * _SECONDS[unit.lower()] for number, unit in parts)

"""Bounds what child processes may have of this machine: the variables that an allow-list names, and, where they read files that
others made, bounded memory and no network.

A child confines itself before it imports anything of the work (`jobs.parent_watch`): what it has given up it cannot take back,
nor can the processes that it starts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import socket
import sys
from typing import Any

#: Names that variables begin with, and whole names, that children get: where programs, libraries and caches are, how they use
#: this machine, language and time. Keys, tokens and proxies have other names.
PREFIXES = (
    *("LC_", "PYTHON", "TOKENIZERS_", "LANCE_", "ORT_"),
    *("OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "BLIS_", "VECLIB_", "NUMEXPR_", "MALLOC_", "GLIBC_"),
    *("CUDA_", "CUDNN_", "NVIDIA_", "PYTORCH_", "HIP_", "HSA_", "ROCM_", "ROCR_", "OPENVINO_"),
)
NAMES = frozenset(
    """
    PATH HOME USER LOGNAME LANG LANGUAGE TZ TMPDIR VIRTUAL_ENV LD_LIBRARY_PATH LD_PRELOAD DYLD_LIBRARY_PATH
    TOPWORK_HOME XDG_CACHE_HOME HF_HOME HF_HUB_CACHE HUGGINGFACE_HUB_CACHE TORCH_HOME
    """.split()
)
#: Names of further variables for children, with blanks between them: of plugins that need one.
PASSED_ON = "TOPWORK_CHILD_ENV"
#: Children download nothing: the hub's libraries do not try.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

#: Of Linux's headers: prctl.h, seccomp.h, audit.h.
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
#: By machine: its number in audit.h, and that of the system call `socket`.
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_IO_URING_SETUP = 425
#: System calls of x86_64 under other numbers (x32) begin here.
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
#: Python's audit events of sockets that reach others.
_CONNECTING = frozenset({"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"})


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("if_true", ctypes.c_uint8), ("if_false", ctypes.c_uint8), ("value", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def child_environment() -> dict[str, str]:
    """The variables of this process that a child gets."""
    wanted = NAMES | set(os.environ.get(PASSED_ON, "").split())
    passed = {name: value for name, value in os.environ.items() if name in wanted or name.startswith(PREFIXES)}
    return {**passed, **OFFLINE}


def confine(memory: int) -> None:
    """Bound the memory of this process and of each that it starts, in bytes, and take the network from them. Call it while the
    process has one thread."""
    # Not RLIMIT_AS: address space that is only reserved, or mapped from files of weights, is no memory.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not refuse_sockets():
        sys.addaudithook(_refuse_connections)


def refuse_sockets() -> bool:
    """Let Linux refuse this process, and those that it starts, every socket but those between processes of this machine. False
    where the system cannot."""
    machine = _MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None or sys.maxsize < 1 << 32:
        return False
    audit, call = machine
    steps = (
        (_LOAD, 0, 0, 4),  # the machine of the call
        (_EQUAL, 0, 8, audit),  # another (32 bits on 64): refused
        (_LOAD, 0, 0, 0),  # its number
        (_AT_LEAST, 6, 0, _X32),
        (_EQUAL, 4, 0, _IO_URING_SETUP),  # it opens sockets too
        (_EQUAL, 0, 2, call),
        (_LOAD, 0, 0, 16),  # the family of a socket
        (_EQUAL, 0, 2, socket.AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),  # libraries do without
        (_RETURN, 0, 0, _REFUSE | errno.EACCES),
    )
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), instructions)
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    done = (prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program), 0, 0))
    return done == (0, 0)


def _refuse_connections(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse connections that Python makes, for systems without such a filter: libraries in C are not seen here."""
    to_others = event in _CONNECTING and arguments[0].family != socket.AF_UNIX
    if to_others or event == "socket.getaddrinfo":
        raise PermissionError(errno.EACCES, "this process has no network")

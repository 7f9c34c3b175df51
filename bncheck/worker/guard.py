"""The process between a host and a worker: it does nothing but wait, and end all that is left when one of them ends.

Python 3.7 syntax, standard library. What a framework or somebody's model starts lives on otherwise, also in a session
of its own (``setsid``, a daemon): on Linux such a process is handed to the nearest guard above it, which ends it.
Elsewhere no system call does that: only what stays in the worker's process group ends with it.
"""

import errno
import os
import signal
import sys
import threading
import time

LINUX = sys.platform.startswith("linux")
LOOK_SECONDS = 0.5
END_SECONDS = 5.0  # for what is left to end; it may start new processes all the while
ENDING = [getattr(signal, name) for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1")]
STACK = signal.SIGABRT  # the worker shows where it is, and dies
PDEATHSIG, SUBREAPER = 1, 36  # of prctl


def guard(host):
    """End this process with ``host``, and all that it starts with it. On Linux it returns in a child, which is the
    worker; this one stays as its guard, ends as the worker ends, and takes SIGUSR1 for "end now"."""
    if not LINUX or os.getpgrp() != os.getpid():  # its group is somebody else's
        end_with_host(host)
        return
    if not has_host(host):
        os._exit(0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    heard = set(ENDING) | {STACK, signal.SIGCHLD}
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    prctl(SUBREAPER, 1)
    me = os.getpid()
    worker = os.fork()
    if worker:
        try:
            status = watch(worker, host, heard)
        except BaseException:  # it must not go on as a second worker
            os.kill(worker, signal.SIGKILL)
            os._exit(1)
        end_as(status)
    os.setpgid(0, 0)  # who kills its own group does not kill its guard
    prctl(PDEATHSIG, signal.SIGKILL)
    if os.getppid() != me:
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, usual)


def watch(worker, host, heard):
    """Wait until the worker has ended, the host is gone or somebody asks; the worker's status, when nothing is left."""
    asked = os.getppid() == host
    if asked:
        prctl(PDEATHSIG, signal.SIGUSR1)
    status = None
    while status is None and has_host(host):
        found = signal.sigwaitinfo(heard) if asked else signal.sigtimedwait(heard, LOOK_SECONDS)
        number = None if found is None else found.si_signo
        if number == STACK:
            os.kill(worker, STACK)
        elif number in ENDING:
            break
        status = reap(worker)
    return end_all(worker, status)


def end_all(worker, status):
    try:
        os.killpg(worker, signal.SIGKILL)
    except OSError:
        pass  # nothing is left of its group
    if status is None:
        os.kill(worker, signal.SIGKILL)
    until = time.monotonic() + END_SECONDS
    while time.monotonic() < until:
        found = reap(worker)
        status = found if status is None else status
        left = children()
        if not left:
            break
        for each in left:
            try:
                os.kill(each, signal.SIGKILL)
            except OSError:
                pass  # it has ended just now, or belongs to another user
        time.sleep(0.002)
    return signal.SIGKILL if status is None else status


def reap(worker):
    """Take in whoever has ended, the handed over ones too; the worker's status when it is among them."""
    status = None
    try:
        while True:
            pid, found = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return status
            status = found if pid == worker else status
    except ChildProcessError:
        return status


def children():
    """Numbers of the processes whose parent is this one."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []  # which is the rule, and a look through /proc takes milliseconds
    me = os.getpid()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and parent_of(int(name)) == me]


def parent_of(process):
    """0 when it has ended."""
    try:
        with open("/proc/%d/stat" % process, "rb") as handle:
            return int(handle.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def end_as(status):
    """End with the exit code or by the signal that ended the worker."""
    if not os.WIFSIGNALED(status):
        os._exit(os.WEXITSTATUS(status))
    import resource

    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # one core is enough
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def end_with_host(host):
    """End this process when the host ends, in the middle of an endless cell too. The kernel is asked first, and whether
    the host is still there after that: it may have been killed in between, or before this line was reached."""
    asked = LINUX and os.getppid() == host
    if asked:
        prctl(PDEATHSIG, signal.SIGKILL)
    if not has_host(host):
        os._exit(0)
    if not asked:  # a script that starts Python is between the two, say
        threading.Thread(target=watch_host, args=(host,), daemon=True).start()


def prctl(what, value):
    import ctypes

    ctypes.CDLL(None).prctl(what, ctypes.c_ulong(int(value)), 0, 0, 0)


def watch_host(host):
    while has_host(host):
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def has_host(host):
    """Whether the host is this process's parent, or one further up."""
    above = os.getppid()
    while above not in (0, 1, host):
        below, above = above, parent_of(above)
        if not above and not os.path.exists("/proc/%d" % below):
            return is_alive(host)  # no Linux, or the one above has ended just now
    return above == host


def is_alive(process):
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True

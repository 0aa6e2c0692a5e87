"""No user can keep another user's audit down, or show root counts that it takes for its own."""

from __future__ import annotations

import pytest
from tests.support.places import mounts_are_possible, run_inside

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not mounts_are_possible(), reason="needs root, and a /run of its own (unshare, mount)"),
]


def test_a_name_that_another_user_has_taken_stops_no_audit_of_root() -> None:
    run_inside("""
        make("/dev/shm/inbound_audit-mail", NOBODY, 0o777)
        assert join_and_count() == "/run/inbound_audit/inbound_audit-mail"
        assert status("/run/inbound_audit") == (0, "0o755")
        audit = InboundAudit(shared="mail")
        assert status("/run/inbound_audit/inbound_audit-mail") == (0, "0o700")
        assert View("mail").total() == 0
        assert status("/dev/shm/inbound_audit-mail") == (NOBODY, "0o777")
        assert os.listdir("/dev/shm/inbound_audit-mail") == []
        """)


def test_where_run_is_on_a_disk_root_uses_it_only_for_a_name_that_was_taken() -> None:
    run_inside("""
        from inbound_audit.shared import places
        places._is_in_memory = lambda mounted: False
        assert join_and_count("free") == "/dev/shm/inbound_audit-free"
        assert not os.path.exists("/run/inbound_audit")
        make("/dev/shm/inbound_audit-mail", NOBODY)
        assert join_and_count() == "/run/inbound_audit/inbound_audit-mail"
        """)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0])
def test_the_place_of_services_is_roots_whatever_the_mask(mask: int) -> None:
    run_inside(f"""
        os.umask({mask})
        InboundAudit(shared="mail")
        assert status("/run/inbound_audit") == (0, "0o755")
        assert status("/run/inbound_audit/inbound_audit-mail") == (0, "0o700")
        """)


def test_a_service_of_a_user_has_its_own_place() -> None:
    """As systemd makes it: of the service's user. Its shell has no $RUNTIME_DIRECTORY."""
    run_inside("""
        make("/dev/shm/inbound_audit-mail", OTHER, 0o777)
        make("/run/inbound_audit", NOBODY, 0o755)

        def service():
            os.environ["RUNTIME_DIRECTORY"] = "relative:/run/inbound_audit:/run/other"
            audit = InboundAudit(shared="mail")
            session = audit.listener().session("192.0.2.7")
            del os.environ["RUNTIME_DIRECTORY"]
            assert View("mail").total() == 1
            assert directory_of("mail") == find_directory("mail") == "/run/inbound_audit/inbound_audit-mail"
            assert InboundAudit(shared="mail").total() == 1

        as_user(NOBODY, service)
        """)


def test_users_have_theirs_in_memory_beside_a_service() -> None:
    run_inside("""
        audit = InboundAudit(shared="mail")

        def user():
            assert join_and_count() == "/dev/shm/inbound_audit-mail"
            refused("another user (root, uid 0)", lambda: View("mail"))

        as_user(NOBODY, user)
        assert audit.total() == 0
        """)


@pytest.mark.parametrize(
    "prepare",
    [
        'make("/run/inbound_audit", OTHER, 0o755)',
        'make("/run/inbound_audit", 0, 0o1777)',
        'make("/run/inbound_audit", 0, 0o775)',
        'make("/run/elsewhere", NOBODY, 0o755); os.symlink("/run/elsewhere", "/run/inbound_audit")',
        'open("/run/inbound_audit", "w").close()',
    ],
    ids=["another user's", "open to all", "open to a group", "a link", "a file"],
)
def test_a_place_that_others_can_change_is_not_used(prepare: str) -> None:
    run_inside(f"""
        {prepare}

        def user():
            assert join_and_count() == "/dev/shm/inbound_audit-mail"

        as_user(NOBODY, user)
        """)


def test_a_directory_that_another_user_has_prepared_is_refused() -> None:
    run_inside("""
        for mode in (0o700, 0o777, 0o770, 0o3770):
            make("/dev/shm/inbound_audit-mail", OTHER, mode)
            as_user(NOBODY, lambda: refused("another user", lambda: InboundAudit(shared="mail")))
            as_user(NOBODY, lambda: refused("another user", lambda: View("mail")))
            assert os.listdir("/dev/shm/inbound_audit-mail") == []
            os.rmdir("/dev/shm/inbound_audit-mail")
        """)


def test_a_link_that_takes_the_directorys_place_leads_nowhere() -> None:
    """Between any two steps: what is behind the link is neither given to the group nor filled."""
    run_inside("""
        make("/dev/shm/mine", 0, 0o700)
        path = "/dev/shm/inbound_audit-mail"
        os.environ["INBOUND_AUDIT_SHM"] = "/dev/shm"
        real = {name: getattr(os, name) for name in ("mkdir", "open", "chown", "chmod", "fstat")}

        def swap():
            if os.path.isdir(path) and not os.path.islink(path):
                os.rename(path, path + "-before")
                os.symlink("/dev/shm/mine", path)

        for step in range(12):
            calls = 0

            def wrap(function):
                def call(*arguments, **named):
                    global calls
                    result = function(*arguments, **named)
                    calls += 1
                    if calls == step:
                        swap()
                    return result
                return call

            for name, function in real.items():
                setattr(os, name, wrap(function))
            try:
                InboundAudit(shared="mail", group="daemon").close()
            except SharedStateError:
                pass
            finally:
                for name, function in real.items():
                    setattr(os, name, function)
            assert status("/dev/shm/mine") == (0, "0o700") and os.listdir("/dev/shm/mine") == [], step
            subprocess.run(["rm", "-rf", path, path + "-before"], check=True)
        """)


def test_root_names_the_user_of_an_audit() -> None:
    run_inside("""
        import time
        ready, end = os.pipe(), os.pipe()
        name = pwd.getpwuid(NOBODY).pw_name
        pid = os.fork()
        if pid == 0:
            os.setgroups([]), os.setgid(NOBODY), os.setuid(NOBODY)
            audit = InboundAudit(shared="mail")
            session = audit.listener().session("192.0.2.7")
            os.write(ready[1], b"x")
            os.read(end[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        refused(f"another user ({name}, uid {NOBODY}); name that user (--user {name},", lambda: View("mail"))
        for user in (name, str(NOBODY)):
            assert View("mail", user=user).total() == 1
        refused("no such user", lambda: View("mail", user="nonesuch"))
        refused("another user", lambda: View("mail", user="root"))
        command = [sys.executable, "-m", "inbound_audit"]
        for line in ("show mail", "top mail", "ps mail", "cluster mail", "console mail cluster shared list"):
            words = line.split()
            done = subprocess.run([*command, *words], capture_output=True, text=True)
            assert done.returncode == 1 and name in done.stderr, done
            done = subprocess.run([*command, *words[:2], "--user", name, *words[2:]], capture_output=True, text=True)
            without_agent = line == "cluster mail" and "no agent runs here" in done.stderr
            assert done.returncode == without_agent and name in done.stderr, done
        own = InboundAudit(shared="mail")  # root's of the same name
        assert View("mail").total() == 0 and View("mail", user=name).total() == 1
        os.write(end[1], b"x")
        os.waitpid(pid, 0)
        """)


def test_an_audit_that_could_not_begin_or_has_ended_is_not_listed() -> None:
    run_inside("""
        from inbound_audit.cli import view_options

        def user():
            refused("not permitted", lambda: InboundAudit(shared="refused", group="root"))
            InboundAudit(shared="ended").close()
            kept = InboundAudit(shared="mail")
            assert view_options._known_names("x") == " (there is: mail)"
            assert not os.path.exists("/dev/shm/inbound_audit-refused")

        as_user(NOBODY, user)
        """)


def test_a_members_file_is_safe_from_the_others_of_its_group() -> None:
    run_inside("""
        path = "/dev/shm/inbound_audit-mail"
        make(path, NOBODY, 0o2770, GROUP)  # as an earlier version made it
        import grp
        found = grp.struct_group(("counters", "x", GROUP, []))
        grp.getgrnam = lambda name: found

        def owner():
            audit = InboundAudit(shared="mail", group="counters")
            assert status(path) == (NOBODY, "0o3770")
            (file,) = [name for name in os.listdir(path) if name.endswith(".owner")]
            os.write(told[1], file.encode())
            os.read(end[0], 1)
            assert audit._membership._resources.file == file

        def other():
            file = os.read(told[0], 100).decode()
            for step in (lambda: os.unlink(f"{path}/{file}"), lambda: os.rename(f"{path}/{file}", f"{path}/x")):
                try:
                    step()
                except PermissionError:
                    continue
                raise AssertionError("not refused")
            audit = InboundAudit(shared="mail", group="counters")
            assert len(os.listdir(path)) == 4
            audit.close()
            assert len(os.listdir(path)) == 2
            os.write(end[1], b"x")

        told, end = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            as_user(NOBODY, owner, [GROUP])
            os._exit(0)
        as_user(OTHER, other, [GROUP])
        assert os.waitpid(pid, 0)[1] == 0
        """)

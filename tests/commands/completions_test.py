"""What the shells complete is what limaquota has: its commands, their options, the VMs of the home."""
import os
import pty
import re
import select
import shutil
import subprocess
import time

from harness import DEADLINE, HELPERS, Skip, expect

COMPLETIONS = os.path.abspath(os.path.join(HELPERS, "completions"))


class Shells:
    def __init__(self, new_home):
        home = new_home()
        self.directory = home.directory
        bin_directory = os.path.join(self.directory, "bin")
        os.makedirs(bin_directory)
        os.symlink(home.limaquota, os.path.join(bin_directory, "limaquota"))
        for name in ("alpha", "beta", ".hidden", "_disks/data", "_config"):
            os.makedirs(os.path.join(home.source, name))
        self.env = {"PATH": f"{bin_directory}:{os.environ['PATH']}", "LIMA_HOME": home.source, "TERM": "dumb",
                    "LIMAQUOTA_TEMPLATES": os.path.abspath(os.path.join(HELPERS, "templates")),
                    "HOME": self.directory, "XDG_CONFIG_HOME": self.directory, "LC_ALL": "C.UTF-8"}

    def run(self, *words):
        return subprocess.run(words, capture_output=True, text=True, check=True, env=self.env, timeout=DEADLINE,
                              cwd=self.directory).stdout

    def commands(self):
        """As the help lists them."""
        listed = self.run("limaquota", "--help").split("Subcommands:\n")[1].split("\n\n")[0]
        return set(re.findall(r"^  (\S+)", listed, re.MULTILINE))

    def options(self, command):
        return set(re.findall(r"^  (?:-\w,)?(--[a-z-]+)", self.run("limaquota", command, "--help"), re.MULTILINE))

    def bash(self, *words):
        if not shutil.which("bash"):
            raise Skip("no bash")
        script = ('source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _limaquota limaquota "${@: -1}" "${@: -2:1}"; '
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        text = self.run("bash", "--norc", "-c", script, os.path.join(COMPLETIONS, "limaquota.bash"), "limaquota", *words)
        return set(text.split())

    def fish(self, *words):
        if not shutil.which("fish"):
            raise Skip("no fish")
        script = 'source $argv[1]; complete --do-complete "$argv[2]"'
        text = self.run("fish", "--no-config", "-c", script, os.path.join(COMPLETIONS, "limaquota.fish"),
                        " ".join(("limaquota", *words)))
        return {line.split("\t")[0] for line in text.splitlines()}

    def zsh(self, *words):
        """Tab pressed in a terminal: the words that it shows."""
        if not shutil.which("zsh"):
            raise Skip("no zsh")
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.directory)
            os.execvpe("zsh", ["zsh", "-f", "-i"], self.env)
        try:
            self.talk(terminal, f"PS1='READY> '; fpath=({COMPLETIONS} $fpath); LISTMAX=0; unsetopt zle_bracketed_paste; "
                      "autoload -Uz compinit; compinit -u -D; zstyle ':completion:*' verbose no; "
                      "told() { print -n 'TO''LD' }; zle -N told; bindkey '^X' told; told\n")
            text = self.talk(terminal, "limaquota " + " ".join(words) + "\t\t\x18")
        finally:
            os.close(terminal)
            os.waitpid(pid, 0)
        return set(re.findall(r"[\w./-]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", " ", text)))

    @staticmethod
    def talk(terminal, text):
        """What comes until the shell has told that it is done with it."""
        os.write(terminal, text.encode())
        got, until = b"", time.monotonic() + DEADLINE
        while b"TOLD" not in got:
            expect(select.select([terminal], [], [], until - time.monotonic())[0], f"zsh is silent after {got}")
            got += os.read(terminal, 65536)
        return got.decode(errors="replace")


def completes(shells, complete):
    commands = shells.commands()
    expect({"mount", "umount", "status", "set", "enable", "disable"} <= commands, f"the help lists {commands}")
    expect(commands <= complete(""), f"commands: {complete('')}")
    for command in ("set", "mount", "enable"):
        options, got = shells.options(command), complete(command, "--")
        expect(options and options <= got, f"{command}: has {options}, completed {got}")
    expect({"alpha", "beta"} <= complete("status", ""), f"VMs: {complete('status', '')}")
    accounts = complete("set", "")
    expect({"alpha", "beta", "_disks/data", "_default", "_host"} <= accounts and ".hidden" not in accounts, accounts)


def completes_templates_and_homes(shells, complete):
    open(os.path.join(shells.directory, "mine.yaml"), "w", encoding="utf-8").close()
    for command in ("plan", "apply"):
        got = complete(command, "")
        expect({"zfs-test-minimal", "zfs-kernel-build", "mine.yaml"} <= got, f"{command}: {got}")
        expect("zfs-test-minimal.profile" not in got, f"{command}: {got}")
    os.makedirs(os.path.join(shells.directory, "other", "gamma"))
    for words in (("--home", "~/other"), (f"--home={shells.directory}/other",)):
        got = complete("status", *words, "")
        expect("gamma" in got and "alpha" not in got, f"{words}: {got}")


def test_bash_completes(new_home):
    shells = Shells(new_home)
    completes(shells, shells.bash)
    expect(shells.bash("s") == {name for name in shells.commands() if name.startswith("s")}, shells.bash("s"))
    expect(shells.bash("set", "al") == {"alpha"}, "a VM by its start")
    os.makedirs(os.path.join(shells.directory, "somewhere"))
    expect("somewhere" in shells.bash("mount", "some"), "directories for mount")
    completes_templates_and_homes(shells, shells.bash)
    got = shells.bash("status", "--home", "=", shells.directory + "/other", "")  # as bash splits it
    expect("gamma" in got and "alpha" not in got, got)
    expect("somewhere" in shells.bash("status", "--home", "=", "some"), "directories after --home=")


def test_fish_completes(new_home):
    shells = Shells(new_home)
    completes(shells, shells.fish)
    expect(shells.fish("set", "al") == {"alpha"}, "a VM by its start")
    completes_templates_and_homes(shells, shells.fish)


def test_zsh_completes(new_home):
    shells = Shells(new_home)
    completes(shells, shells.zsh)
    completes_templates_and_homes(shells, shells.zsh)


def test_every_command_and_every_option_is_completed(new_home):
    shells = Shells(new_home)
    for command in shells.commands():
        options = shells.options(command)
        got = {line.split("\t")[0] for line in shells.run("limaquota", "__complete", "--", command, "--").splitlines()}
        expect(options == got, f"{command}: has {options}, completed {got}")


def test_names_that_are_hostile_or_a_home_that_is_missing_break_nothing(new_home):
    shells = Shells(new_home)
    os.makedirs(os.path.join(shells.env["LIMA_HOME"], "x\n:files\ty"))
    os.makedirs(os.path.join(shells.env["LIMA_HOME"], "$(touch owned)"))
    expect("alpha" in shells.bash("status", ""), "the others are completed")
    text = shells.run("limaquota", "__complete", "--", "status", "")
    expect(":files" not in text and not os.path.exists(os.path.join(shells.directory, "owned")), text)
    shells.env["LIMA_HOME"] = "/nowhere"
    expect(shells.run("limaquota", "__complete", "--", "status", "") == "", "no VM")

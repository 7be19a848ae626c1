"""`python -m pipeline completion`: what a shell needs to complete the commands.

click answers a shell that asks with `VARIABLE` set; what it registers by itself is an executable's
name, which a clone has not. These scripts are registered for `python -m pipeline` as well.
"""

import click

VARIABLE = "_PREFIX_TUNING_COMPLETE"
COMMAND = "prefix-tuning"
"""The console script of pyproject.toml."""

# A word for each of `python -m pipeline` is one too many for click, which expects one of a command.
_BASH = """\
_prefix_tuning() {
    local IFS=$'\\n' skip=0 reply type value
    local -a command=("$1")
    if [[ $1 != COMMAND ]]; then
        if [[ ${COMP_WORDS[1]} != -m || ${COMP_WORDS[2]} != pipeline || $COMP_CWORD -lt 3 ]]; then
            return
        fi
        skip=2 command=("$1" -m pipeline)
    fi
    local -a words=("${COMP_WORDS[@]:$skip}")
    COMPREPLY=()
    reply=$(COMP_WORDS="${words[*]}" COMP_CWORD=$((COMP_CWORD - skip)) VARIABLE=bash_complete \\
        "${command[@]}" 2>/dev/null)
    for line in $reply; do
        IFS=, read -r type value <<< "$line"
        if [[ $type == dir ]]; then
            compopt -o dirnames
        elif [[ $type == file ]]; then
            compopt -o default
        elif [[ $type == plain ]]; then
            COMPREPLY+=("$value")
        fi
    done
}
complete -o nosort -F _prefix_tuning COMMAND
complete -o nosort -o bashdefault -o default -F _prefix_tuning python python3
"""

_ZSH = """\
#compdef COMMAND
_prefix_tuning() {
    local -a plain described reply command
    local skip=0 type key descr
    command=("$words[1]")
    if [[ $words[1] != COMMAND ]]; then
        if [[ $words[2] != -m || $words[3] != pipeline ]] || (( CURRENT < 4 )); then
            if (( $+functions[_python] )) || autoload +X -Uz _python 2>/dev/null; then
                _python "$@"
            else
                _files
            fi
            return
        fi
        skip=2 command=("$words[1]" -m pipeline)
    fi
    reply=("${(@f)$(COMP_WORDS="${words[$((skip + 1)),-1]}" COMP_CWORD=$((CURRENT - 1 - skip)) \\
        VARIABLE=zsh_complete "${command[@]}" 2>/dev/null)}")
    for type key descr in ${reply}; do
        if [[ $type == plain && $descr == _ ]]; then
            plain+=("$key")
        elif [[ $type == plain ]]; then
            described+=("$key:$descr")
        elif [[ $type == dir ]]; then
            _path_files -/
        elif [[ $type == file ]]; then
            _path_files -f
        fi
    done
    [[ -n $described ]] && _describe -V unsorted described -U
    [[ -n $plain ]] && compadd -U -V unsorted -a plain
}
compdef _prefix_tuning COMMAND python python3
"""

_FISH = """\
function _prefix_tuning
    set -l words (commandline -opc)
    set -l command COMMAND
    if test $words[1] != COMMAND
        set command $words[1] -m pipeline
        set words $words[1] $words[4..]
    end
    set -l reply (env VARIABLE=fish_complete COMP_WORDS="$words" COMP_CWORD=(commandline -t) \\
        $command 2>/dev/null)
    for line in $reply
        set -l part (string split "," -m 1 -- $line)
        if test $part[1] = dir
            __fish_complete_directories $part[2]
        else if test $part[1] = file
            __fish_complete_path $part[2]
        else if test $part[1] = plain
            echo $part[2]
        end
    end
end
function _prefix_tuning_of_python
    set -l words (commandline -opc)
    test (count $words) -ge 3; and test "$words[2..3]" = "-m pipeline"
end
complete --no-files --command COMMAND --arguments "(_prefix_tuning)"
complete --no-files --command python --condition _prefix_tuning_of_python \\
    --arguments "(_prefix_tuning)"
complete --no-files --command python3 --condition _prefix_tuning_of_python \\
    --arguments "(_prefix_tuning)"
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@click.command()
@click.argument("shell", type=click.Choice(list(_SCRIPTS)))
def completion(shell: str) -> None:
    """Print what SHELL needs to complete commands, options, variants and files.

    Of `python -m pipeline`, and of `prefix-tuning` where the package is installed. The first line
    is for bash, the second for zsh, in ~/.bashrc or ~/.zshrc; the third is for fish.

    \b
    eval "$(python -m pipeline completion bash)"
    eval "$(python -m pipeline completion zsh)"
    python -m pipeline completion fish | source
    """
    script = _SCRIPTS[shell].replace("VARIABLE", VARIABLE).replace("COMMAND", COMMAND)
    click.echo(script, nl=False)

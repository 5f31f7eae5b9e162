package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run prints the script. It is made from the command line itself, so it never falls behind.
func (c completionCmd) Run(p *Program, parser *kong.Kong) error {
	words := map[string][]string{} // command path to what may follow it
	collect(parser.Model.Node, "", words)
	print := map[string]func(io.Writer, string, map[string][]string){"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell]
	print(p.Stdout, p.Name, words)
	return nil
}

// collect gathers the subcommands and flags after each command path.
func collect(n *kong.Node, path string, words map[string][]string) {
	var next []string
	for _, child := range n.Children {
		if child.Hidden {
			continue
		}
		next = append(next, child.Name)
		collect(child, strings.TrimSpace(path+" "+child.Name), words)
	}
	for _, group := range n.AllFlags(true) {
		for _, f := range group {
			next = append(next, "--"+f.Name)
		}
	}
	words[path] = next
}

// cases returns the branches of a shell's case statement.
func cases(words map[string][]string, format string) string {
	var b strings.Builder
	for _, path := range sortedKeys(words) {
		fmt.Fprintf(&b, format, path, strings.Join(words[path], " "))
	}
	return b.String()
}

func bashScript(w io.Writer, name string, words map[string][]string) {
	fmt.Fprintf(w, `# bash completion for %[1]s: source <(%[1]s completion bash)
_%[2]s() {
  local cur=${COMP_WORDS[COMP_CWORD]} path="" w
  for w in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $w in -*) ;; *) path="${path:+$path }$w" ;; esac
  done
  local next=""
  case $path in
%[3]s  esac
  COMPREPLY=($(compgen -W "$next" -- "$cur"))
}
complete -o default -F _%[2]s %[1]s
`, name, identifier(name), cases(words, "    %q) next=%q ;;\n"))
}

func zshScript(w io.Writer, name string, words map[string][]string) {
	fmt.Fprintf(w, `#compdef %[1]s
# zsh completion for %[1]s: source <(%[1]s completion zsh)
_%[2]s() {
  local path="" w next=""
  for w in "${words[@]:1:$((CURRENT-2))}"; do
    case $w in -*) ;; *) path="${path:+$path }$w" ;; esac
  done
  case $path in
%[3]s  esac
  compadd -- ${=next}
}
compdef _%[2]s %[1]s
`, name, identifier(name), cases(words, "    %q) next=%q ;;\n"))
}

func fishScript(w io.Writer, name string, words map[string][]string) {
	fmt.Fprintf(w, `# fish completion for %[1]s: %[1]s completion fish | source
function __%[2]s_next
  set -l path (string match -v -- '-*' (commandline -opc)[2..])
  switch "$path"
%[3]s  end
end
complete -c %[1]s -f -a '(__%[2]s_next)'
`, name, identifier(name), cases(words, "    case %q\n      string split ' ' -- %q\n"))
}

func identifier(name string) string { return strings.ReplaceAll(name, "-", "_") }

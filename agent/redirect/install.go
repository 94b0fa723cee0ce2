package redirect

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// Install replaces the table in the network namespace whose file is netns ("" is
// the caller's own) with the rules of c, in one transaction: no packet passes
// while there are no rules. It needs CAP_NET_ADMIN there. Connections that are
// open go on as they are.
func Install(c Config, netns string) error {
	if err := c.Validate(); err != nil {
		return err
	}
	conn, done, err := open(netns)
	if err != nil {
		return err
	}
	defer done()
	t := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	// Deleting fails when there is nothing to delete.
	conn.AddTable(t)
	conn.DelTable(t)
	conn.AddTable(t)
	for _, c := range Rules(c).chains {
		in := conn.AddChain(c.nft(t))
		for _, r := range c.rules {
			conn.AddRule(r.nft(in))
		}
	}
	if err := conn.Flush(); err != nil {
		return explain("install rules", err)
	}
	return nil
}

// Remove deletes the table; that there is none is no error. Redirected
// connections that are open end with it.
func Remove(netns string) error {
	conn, done, err := open(netns)
	if err != nil {
		return err
	}
	defer done()
	t := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	conn.AddTable(t)
	conn.DelTable(t)
	if err := conn.Flush(); err != nil {
		return explain("remove rules", err)
	}
	return nil
}

// Problem is a difference between the rules that should be and those that are.
type Problem struct {
	// What is "missing", "foreign" or "changed".
	What string
	// Where is the chain, or the table's name.
	Where string
	// Rule as nft says it, or a description of what is foreign.
	Rule string
}

// String is one line.
func (p Problem) String() string { return fmt.Sprintf("%s: %s: %s", p.Where, p.What, p.Rule) }

// Check compares the table in a network namespace with the rules of c. No
// problems means that they are the same. It changes nothing.
func Check(c Config, netns string) ([]Problem, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	conn, done, err := open(netns)
	if err != nil {
		return nil, err
	}
	defer done()
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, explain("list tables", err)
	}
	var t *nftables.Table
	for _, have := range tables {
		if have.Name == Table {
			t = have
		}
	}
	if t == nil {
		return []Problem{{"missing", Table, "table inet " + Table}}, nil
	}
	var out []Problem
	if t.Flags != 0 {
		out = append(out, Problem{"changed", Table, fmt.Sprintf("table has flags %#x (1 is dormant)", t.Flags)})
	}
	found, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, explain("list chains", err)
	}
	chains := map[string]*nftables.Chain{}
	for _, have := range found {
		if have.Table.Name == Table {
			chains[have.Name] = have
		}
	}
	for _, want := range Rules(c).chains {
		have, ok := chains[want.name]
		delete(chains, want.name)
		if !ok {
			out = append(out, Problem{"missing", want.name, "chain " + want.name})
			continue
		}
		if !want.sameHook(have) {
			out = append(out, Problem{"changed", want.name, fmt.Sprintf("must be type %s hook %s priority %d policy accept", want.kind, want.hook, want.priority)})
		}
		have.Table = t
		rules, err := conn.GetRules(t, have)
		if err != nil {
			return nil, explain("list rules", err)
		}
		out = append(out, compare(want, rules)...)
	}
	for name := range chains {
		out = append(out, Problem{"foreign", name, "chain " + name})
	}
	return out, nil
}

func compare(want chain, have []*nftables.Rule) []Problem {
	var out []Problem
	left := make([]*nftables.Rule, len(have))
	copy(left, have)
	inOrder, last := true, -1
	for _, r := range want.rules {
		at := -1
		for i, h := range left {
			if h != nil && reflect.DeepEqual(asRead(h.Exprs), asRead(r.exprs())) {
				at = i
				break
			}
		}
		if at < 0 {
			out = append(out, Problem{"missing", want.name, r.String()})
			continue
		}
		inOrder = inOrder && at > last
		last, left[at] = at, nil
	}
	for _, h := range left {
		if h == nil {
			continue
		}
		what := fmt.Sprintf("rule with handle %d", h.Handle)
		if comment, ok := userdata.GetString(h.UserData, userdata.TypeComment); ok {
			what += fmt.Sprintf(" comment %q", comment)
		}
		out = append(out, Problem{"foreign", want.name, what})
	}
	if !inOrder {
		out = append(out, Problem{"changed", want.name, "order of the rules"})
	}
	return out
}

// asRead is rules as the library reads them back: it skips conversions of byte
// order and the direction of a ct expression, and the kernel repeats the one port of a redirect.
func asRead(exprs []expr.Any) []expr.Any {
	var out []expr.Any
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Byteorder:
		case *expr.Ct:
			out = append(out, &expr.Ct{Key: e.Key})
		case *expr.Redir:
			out = append(out, &expr.Redir{RegisterProtoMin: e.RegisterProtoMin, Flags: e.Flags})
		default:
			out = append(out, e)
		}
	}
	return out
}

// open returns a connection into a network namespace.
func open(netns string) (*nftables.Conn, func(), error) {
	if netns == "" {
		conn, err := nftables.New()
		if err != nil {
			return nil, nil, explain("open netlink", err)
		}
		return conn, func() {}, nil
	}
	f, err := os.Open(netns)
	if err != nil {
		return nil, nil, fmt.Errorf("redirect: network namespace: %w", err)
	}
	conn, err := nftables.New(nftables.WithNetNSFd(int(f.Fd())))
	if err != nil {
		f.Close()
		return nil, nil, explain("open netlink in "+netns, err)
	}
	return conn, func() { f.Close() }, nil
}

// ErrNotPermitted is in the chain of errors of a process without CAP_NET_ADMIN.
var ErrNotPermitted = errors.New("CAP_NET_ADMIN is needed in the network namespace (run as root, or give the container the capability NET_ADMIN)")

func explain(what string, err error) error {
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return fmt.Errorf("redirect: %s: %w", what, errors.Join(ErrNotPermitted, err))
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.EPROTONOSUPPORT), errors.Is(err, syscall.EAFNOSUPPORT):
		return fmt.Errorf("redirect: %s: %w (the kernel needs nf_tables with nat, redirect and fib for inet, and conntrack zones)", what, err)
	}
	return fmt.Errorf("redirect: %s: %w", what, err)
}

func (c chain) nft(t *nftables.Table) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	out := &nftables.Chain{
		Table: t, Name: c.name, Type: nftables.ChainType(c.kind),
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(c.priority)), Policy: &accept,
	}
	if c.hook == "prerouting" {
		out.Hooknum = nftables.ChainHookPrerouting
	}
	return out
}

func (c chain) sameHook(have *nftables.Chain) bool {
	want := c.nft(nil)
	return have.Hooknum != nil && have.Priority != nil && have.Policy != nil && have.Type == want.Type &&
		*have.Hooknum == *want.Hooknum && *have.Priority == *want.Priority && *have.Policy == *want.Policy
}

func (r rule) exprs() []expr.Any {
	var out []expr.Any
	for _, m := range r.match {
		out = append(out, m.exprs...)
	}
	return append(out, r.verdict.exprs...)
}

func (r rule) nft(in *nftables.Chain) *nftables.Rule {
	return &nftables.Rule{Table: in.Table, Chain: in, Exprs: r.exprs(), UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment)}
}

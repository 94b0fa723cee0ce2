package delta

import "testing"

// What only one proxy has, its certificate, nobody can try for it: it waits for
// nobody, wakes nobody, and leaves nothing.
func TestOwnResourcesAreNotTried(t *testing.T) {
	c := newClass(t, 5, res(secretType, "identity", "0"))
	for round := range 3 {
		for i, k := range c.all {
			c.s.Assign(k.st.node.id, "g", NewSet([]*Resource{res(secretType, "identity", string(rune('a'+round))+string(rune('a'+i)))}))
			for _, other := range c.all {
				other.st.sending = false
			}
			heard := c.heard()
			if len(heard) != 1 || len(heard[i]) != 1 {
				t.Fatalf("round %d: %d get the certificate of one, which gets %d", round, len(heard), len(heard[i]))
			}
			k.ack(heard[i]...)
			for j, other := range c.all {
				if j != i && other.st.sending {
					t.Errorf("round %d: node %d is woken by the certificate of node %d", round, j, i)
				}
			}
		}
	}
	if len(c.s.trials) > 0 {
		t.Errorf("%d trials are left", len(c.s.trials))
	}
}

// A trial ends with the group that waits for it.
func TestTrialsEndWithTheirGroup(t *testing.T) {
	c := newClass(t, 5, res(routeType, "a", "1"))
	c.publish(2, false, res(routeType, "a", "2"))
	if c.heard(); len(c.s.trials) != 1 {
		t.Fatalf("%d trials", len(c.s.trials))
	}
	for _, k := range c.all {
		c.s.Unassign(k.st.node.id)
	}
	if c.s.Retire("g"); len(c.s.trials) > 0 {
		t.Errorf("%d trials are left", len(c.s.trials))
	}
}

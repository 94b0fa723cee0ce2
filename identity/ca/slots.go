package ca

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tombolo-mesh/tombolo/identity"
)

// State of a slot.
type State string

// The states, in the order in which an authority goes through them.
const (
	// Prepared authorities are published as trusted, and sign nothing yet.
	Prepared State = "prepared"
	// Active is the one that signs.
	Active State = "active"
	// Retiring authorities sign nothing more; what they signed is still trusted.
	Retiring State = "retiring"
)

// ErrRotation is a step that the slots do not allow now.
var ErrRotation = errors.New("rotation step is not possible")

// Slot holds an authority and what may be done with it.
type Slot struct {
	// State of the authority.
	State State
	// Authority in the slot.
	Authority *Authority
	// Since is when it came into this state.
	Since time.Time
}

// Slots are the authorities of one trust domain during its life: one active, at
// most one prepared, at most one retiring. A rotation is Prepare, publish the
// bundle, wait until every proxy has it, Activate, renew every leaf, Retire.
// The value is immutable: each step returns new slots.
type Slots struct {
	domain identity.TrustDomain
	slots  []Slot
}

// NewSlots makes slots with one new active authority.
func NewSlots(td identity.TrustDomain, now time.Time) (Slots, error) {
	a, err := New(td, now)
	if err != nil {
		return Slots{}, err
	}
	return Slots{domain: td, slots: []Slot{{State: Active, Authority: a, Since: now}}}, nil
}

// TrustDomain of all.
func (s Slots) TrustDomain() identity.TrustDomain { return s.domain }

// Active authority; nil in the zero value.
func (s Slots) Active() *Authority {
	if x, ok := s.Slot(Active); ok {
		return x.Authority
	}
	return nil
}

// Slot in a state, if there is one.
func (s Slots) Slot(state State) (Slot, bool) {
	for _, x := range s.slots {
		if x.State == state {
			return x, true
		}
	}
	return Slot{}, false
}

// Bundle of everything that is trusted: prepared, active and retiring.
func (s Slots) Bundle() (identity.Bundle, error) {
	certs := make([]*x509.Certificate, 0, len(s.slots))
	for _, x := range s.slots {
		certs = append(certs, x.Authority.Certificate())
	}
	return identity.MakeBundle(s.domain, certs...)
}

// Prepare adds a new authority that is trusted and does not sign yet.
func (s Slots) Prepare(now time.Time) (Slots, error) {
	if len(s.slots) != 1 || s.Active() == nil {
		return Slots{}, fmt.Errorf("prepare: %w: another rotation is under way", ErrRotation)
	}
	a, err := New(s.domain, now)
	if err != nil {
		return Slots{}, fmt.Errorf("prepare: %w", err)
	}
	return s.with(s.slots[0], Slot{State: Prepared, Authority: a, Since: now}), nil
}

// Activate makes the prepared authority the one that signs. Call it only after
// every verifier has the bundle that Prepare led to.
func (s Slots) Activate(now time.Time) (Slots, error) {
	next, ok := s.Slot(Prepared)
	active, okActive := s.Slot(Active)
	if !ok || !okActive {
		return Slots{}, fmt.Errorf("activate: %w: no authority is prepared", ErrRotation)
	}
	active.State, active.Since = Retiring, now
	next.State, next.Since = Active, now
	return s.with(next, active), nil
}

// Retire forgets the authority that signed before. Call it only after every leaf
// that it signed is replaced or expired.
func (s Slots) Retire() (Slots, error) {
	active, _ := s.Slot(Active)
	if _, ok := s.Slot(Retiring); !ok {
		return Slots{}, fmt.Errorf("retire: %w: no authority is retiring", ErrRotation)
	}
	return s.with(active), nil
}

// Abort forgets a prepared authority. It signed nothing.
func (s Slots) Abort() (Slots, error) {
	active, _ := s.Slot(Active)
	if _, ok := s.Slot(Prepared); !ok {
		return Slots{}, fmt.Errorf("abort: %w: no authority is prepared", ErrRotation)
	}
	return s.with(active), nil
}

func (s Slots) with(slots ...Slot) Slots { return Slots{domain: s.domain, slots: slots} }

type slotWire struct {
	State State     `json:"state"`
	Since time.Time `json:"since"`
	Cert  string    `json:"cert"`
	Key   string    `json:"key"`
}

// Marshal writes the slots, private keys included: seal the result.
func (s Slots) Marshal() ([]byte, error) {
	out := make([]slotWire, 0, len(s.slots))
	for _, x := range s.slots {
		key, err := x.Authority.MarshalKey()
		if err != nil {
			return nil, err
		}
		cert := identity.MarshalCertificates(x.Authority.Certificate())
		out = append(out, slotWire{State: x.State, Since: x.Since.UTC(), Cert: string(cert), Key: string(key)})
	}
	return json.Marshal(out)
}

// ParseSlots reads what Marshal wrote, for a trust domain.
func ParseSlots(td identity.TrustDomain, data []byte) (Slots, error) {
	var in []slotWire
	if err := json.Unmarshal(data, &in); err != nil {
		return Slots{}, fmt.Errorf("parse authorities of %s: %w", td, err)
	}
	s := Slots{domain: td}
	seen := map[State]bool{}
	for _, x := range in {
		a, err := Load([]byte(x.Cert), []byte(x.Key))
		if err != nil {
			return Slots{}, fmt.Errorf("parse authorities of %s: %w", td, err)
		}
		known := x.State == Prepared || x.State == Active || x.State == Retiring
		if !known || seen[x.State] || a.domain != td {
			return Slots{}, fmt.Errorf("parse authorities of %s: unexpected %q authority of %s", td, x.State, a.domain)
		}
		seen[x.State] = true
		s.slots = append(s.slots, Slot{State: x.State, Authority: a, Since: x.Since})
	}
	if !seen[Active] || len(s.slots) > 2 {
		return Slots{}, fmt.Errorf("parse authorities of %s: must be one active and at most one other", td)
	}
	return s, nil
}

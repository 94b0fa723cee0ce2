package global

import (
	"context"
	"errors"
	"fmt"

	"github.com/tombolo-mesh/tombolo/global/api/access"
)

// AdminToken issues another administrator's token from the store itself: whoever has
// the store and the keys that encrypt Secrets can. Of the configuration it needs
// DataDir, Postgres and SecretsKey. Instances that run go on; an embedded store can
// be opened once only, so that one must not run.
func AdminToken(ctx context.Context, cfg Config) (raw string, err error) {
	g, err := New(cfg)
	if err != nil {
		return "", err
	}
	st, _, err := g.open(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	raw, err = access.New(access.Config{Store: st}).Admin(ctx)
	if err != nil {
		return "", fmt.Errorf("administrator's token: %w", err)
	}
	return raw, nil
}

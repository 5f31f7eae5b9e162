package stage_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage"
)

func TestTurn(t *testing.T) {
	for name, tt := range map[string]struct {
		call atlas.Call
		ends bool
	}{
		"a turn":             {atlas.Call{Budget: atlas.Budget{Total: time.Second, Reserve: time.Second / 2}}, true},
		"nothing was said":   {atlas.Call{}, false},
		"a task outlasts it": {atlas.Call{Budget: atlas.Budget{Total: time.Second}, Task: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.call.Received = time.Now()
				ctx, cancel := stage.Turn(t.Context(), tt.call)
				defer cancel()
				time.Sleep(time.Second)
				synctest.Wait()
				if ctx.Err() != nil {
					t.Error("it ends with the turn, before the stages could say why")
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if ended := ctx.Err() != nil; ended != tt.ends {
					t.Errorf("ended: %v", ended)
				}
			})
		})
	}
}

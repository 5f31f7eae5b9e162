//go:build unix

package servers

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// dial connects to the port with the context's deadline on the whole conversation.
func dial(ctx context.Context, port int) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp4", address(port))
	if err != nil {
		return nil, err
	}
	deadline, limited := ctx.Deadline()
	if !limited {
		deadline = time.Now().Add(5 * time.Second)
	}
	return conn, errors.Join(conn.SetDeadline(deadline))
}

// redisReady sends a PING, in the inline form.
func redisReady(ctx context.Context, p Place) error {
	conn, err := dial(ctx, p.Port)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is left unsaid
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if strings.TrimSpace(answer) != "+PONG" {
		return fmt.Errorf("it answers %q to PING", answer)
	}
	return nil
}

// postgresReady logs in as the superuser and waits for ReadyForQuery; see "Message Formats" in
// PostgreSQL's manual. It reaches through a pooler, too.
func postgresReady(ctx context.Context, p Place) error {
	conn, err := dial(ctx, p.Port)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is left unsaid
	const version = 3 << 16
	startup := binary.BigEndian.AppendUint32(make([]byte, 4), version)
	startup = append(startup, "user\x00postgres\x00database\x00postgres\x00\x00"...)
	binary.BigEndian.PutUint32(startup, uint32(len(startup))) //nolint:gosec // 42
	if _, err := conn.Write(startup); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	for {
		var head [5]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(head[1:])
		if size < 4 || size > 1<<16 {
			return errors.New("it does not speak PostgreSQL's protocol")
		}
		body := make([]byte, size-4)
		if _, err := io.ReadFull(r, body); err != nil {
			return err
		}
		switch head[0] {
		case 'Z': // ready for query
			_, err := conn.Write([]byte{'X', 0, 0, 0, 4}) // terminate
			return err
		case 'E':
			return fmt.Errorf("it refuses: %s", strings.ReplaceAll(string(body), "\x00", " "))
		}
	}
}

// get fetches the path and requires status 200.
func get(ctx context.Context, port int, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address(port)+path, nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // read
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers with status %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil || into == nil {
		return err
	}
	return json.Unmarshal(body, into)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"time"
)

// drive sends the requests, one at a time on each connection (closed loop), for d. The client shares
// the machine with the server, so it is deliberately thin: one thread, prepared bytes out, one epoll
// set, no goroutine to wake for an answer.
func drive(ctx context.Context, addr string, requests [][]byte, want []byte, d time.Duration) (s sample, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return s, err
	}
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, syscall.Close(poll)) }()
	conns := make([]epollConn, len(requests))
	for i := range conns {
		fd, err := dial(to)
		if err != nil {
			return s, err
		}
		defer syscall.Close(fd) //nolint:errcheck // nothing is lost
		conns[i] = epollConn{fd: fd, request: requests[i]}
		if err := syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)}); err != nil {
			return s, err
		}
	}
	s = newSample()
	start := time.Now()
	now := start
	for i := range conns {
		if err := conns[i].send(now); err != nil {
			return s, err
		}
	}
	events := make([]syscall.EpollEvent, len(conns))
	for open := len(conns); open > 0; {
		n, err := syscall.EpollWait(poll, events, 1000)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return s, err
		}
		if err := ctx.Err(); err != nil {
			return s, err
		}
		for _, e := range events[:n] {
			c := &conns[e.Fd]
			whole, err := c.receive()
			if err != nil {
				return s, err
			}
			if !whole {
				continue
			}
			now = time.Now()
			if err := s.answered(&c.in, now.Sub(c.sent), want); err != nil {
				return s, err
			}
			if now.Sub(start) >= d {
				open--
				continue
			}
			if err := c.send(now); err != nil {
				return s, err
			}
		}
	}
	s.elapsed = now.Sub(start)
	return s, nil
}

func dial(to netip.AddrPort) (int, error) {
	if !to.Addr().Is4() {
		return 0, fmt.Errorf("%s is not an IPv4 address", to)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	if err = errors.Join(err, syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)); err != nil {
		return 0, errors.Join(err, syscall.Close(fd))
	}
	return fd, nil
}

// An epollConn is one connection. It blocks, but is only read when there is something to read, and
// one request fits into any socket's buffer.
type epollConn struct {
	fd      int
	request []byte
	sent    time.Time
	in      answerReader
}

func (c *epollConn) send(now time.Time) error {
	c.sent = now
	n, err := syscall.Write(c.fd, c.request)
	if err != nil {
		return err
	}
	if n != len(c.request) {
		return fmt.Errorf("sent %d bytes of %d", n, len(c.request))
	}
	return nil
}

// receive reads what is there and reports whether the answer is whole.
func (c *epollConn) receive() (bool, error) {
	n, err := syscall.Read(c.fd, c.in.space())
	switch {
	case errors.Is(err, syscall.EINTR):
		return false, nil
	case err != nil:
		return false, err
	case n == 0:
		return false, errors.New("the server closed the connection")
	}
	return c.in.take(n)
}

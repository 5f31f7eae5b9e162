//go:build !unix

package main

import (
	"context"
	"errors"
)

type lab struct {
	db      database
	toolbox string
}

func openLab(context.Context, options) (*lab, error) {
	return nil, errors.New("the servers of the SQL rows are started on Linux and macOS only")
}

func (*lab) close() error { return nil }

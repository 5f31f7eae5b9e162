package redis_test

import "context"

var background = context.Background()

const childPrefix = "ATLAS_CACHE_CHILD"

func child() int { return 0 }

package budget

import (
	"cmp"
	"slices"
	"time"
)

// A point is one bucket of latencies: how many calls ended then, and how many were cut then.
type point struct {
	value     int64
	done, cut int64
}

// A curve is the window's observations in order of time.
type curve []point

// curve collects the window. The caller holds mu.
func (sk *sketch) curve() curve {
	c := make(curve, 0, 128)
	for i := range sk.slices {
		for v, n := range sk.slices[i].done.ForEachBucket {
			c = append(c, point{value: v, done: n})
		}
		for v, n := range sk.slices[i].censored.ForEachBucket {
			c = append(c, point{value: v, cut: n})
		}
	}
	slices.SortFunc(c, func(a, b point) int { return cmp.Compare(a.value, b.value) })
	return c
}

// quantile returns the p-quantile by the product-limit estimator (Kaplan and Meier, JASA 1958), which
// takes a cut call for what it is: one that ran at least so long. Counting it as ended would hide the
// tail just when the tail grows. If too many calls were cut to tell, it returns the longest
// observation, which is a lower bound, and false.
func (c curve) quantile(p float64) (time.Duration, bool) {
	atRisk := int64(0)
	for _, pt := range c {
		atRisk += pt.done + pt.cut
	}
	if atRisk == 0 {
		return 0, false
	}
	alive := 1.0
	for i := 0; i < len(c); {
		// Calls that ended and calls that were cut in one bucket: the ended come first.
		v, done, cut := c[i].value, int64(0), int64(0)
		for ; i < len(c) && c[i].value == v; i++ {
			done, cut = done+c[i].done, cut+c[i].cut
		}
		alive *= 1 - float64(done)/float64(atRisk)
		if alive <= 1-p+1e-12 {
			return time.Duration(v) * unit, true
		}
		atRisk -= done + cut
	}
	return time.Duration(c[len(c)-1].value) * unit, false
}

package registry

// Views returns how many views are held.
func (r *Registry) Views() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.views)
}

package cache

// Remembered returns how many purges the store keeps in mind.
func (s *Store) Remembered() int {
	s.tier.mu.Lock()
	defer s.tier.mu.Unlock()
	return len(s.tier.purges)
}

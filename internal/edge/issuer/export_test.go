package issuer

// Cost returns how many rounds of hashing a try of the subject's password takes.
func (s *Server) Cost(subject string) int {
	p, _ := s.person(subject)
	own, vain := s.cost(p.hash)
	return own + vain
}

// Label returns what pages call a client that gives itself the name.
func Label(name string) string { return (&client{Name: name}).label() }

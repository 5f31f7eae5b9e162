package guard

// SecretKinds names the kind of each rule of the table, in order.
func SecretKinds() []string {
	var kinds []string
	for _, r := range secretRules() {
		kinds = append(kinds, r.kind)
	}
	return kinds
}
